"""What is marked, against counting by hand."""

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from avsmamba.registry import METRICS
from tests.evaluation.clips import random_clips, sample


def evaluate(samples):
    evaluator = Evaluator(METRICS.build({"type": "FalsePositives"}))
    for one in samples:
        evaluator.process([one])
    return evaluator.evaluate(len(samples))


def test_equals_counting_by_hand():
    clips = random_clips(3, count=7)
    exists = [torch.tensor([True, True, True, i % 2 == 0, False]) for i in range(7)]
    for i, (_, _, labelled) in enumerate(clips):
        labelled[0] = i % 3 > 0
    got = evaluate([sample(clip, i, exists[i]) for i, clip in enumerate(clips)])
    shares, silent = [], []
    for (logits, masks, labelled), there in zip(clips, exists, strict=True):
        for t in np.flatnonzero(there):
            shares.append((logits[t] > 0).mean())
            if labelled[t] and not masks[t].any():
                silent.append(shares[-1])
    assert len(silent) > 3
    expected = {"marked/pixels": np.mean(shares), "marked/frames": np.mean(np.array(shares) > 0)}
    expected |= {"silent/count": len(silent), "silent/pixels": np.mean(silent)}
    expected["silent/frames"] = np.mean(np.array(silent) > 0)
    assert got == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in got.values())


def test_one_pixel_marks_a_frame_and_one_half_marks_nothing():
    logits, masks, labelled = np.zeros((2, 4, 5), np.float32), np.ones((2, 4, 5), np.uint8), np.ones(2, bool)
    logits[1, 0, 0] = 1e-6
    got = evaluate([sample((logits, masks, labelled))])
    assert got["marked/frames"] == 0.5 and got["marked/pixels"] == pytest.approx(1 / 40)
    assert got["silent/count"] == got["silent/frames"] == 0.0


def test_several_classes():
    one = sample((np.zeros((2, 1, 3), np.float32), np.zeros((2, 1, 3), np.uint8), np.ones(2, bool)))
    one.pred_labels = torch.tensor([[[0, 3, 0]], [[0, 0, 0]]], dtype=torch.uint8)
    got = evaluate([one])
    assert got["marked/frames"] == got["silent/frames"] == 0.5 and got["marked/pixels"] == pytest.approx(1 / 6)


def test_faults():
    clip = random_clips(0, count=1)[0]
    for name in ("pred_logits", "gt_masks"):
        broken = sample(clip)
        delattr(broken, name)
        with pytest.raises(ValueError, match=f"clip_0: {name} is missing"):
            evaluate([broken])
    broken = sample(clip)
    broken.gt_masks = broken.gt_masks[:, :-1]
    with pytest.raises(ValueError, match=r"clip_0: pred_logits: expected \(5, 1, 10, 7\)"):
        evaluate([broken])
    with pytest.raises(ValueError, match="no frame exists"):
        evaluate([sample(clip, exists=torch.zeros(5, dtype=torch.bool))])
