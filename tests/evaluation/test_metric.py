"""AVSMetric through mmengine's Evaluator, under any batch size and over two processes."""

import pickle
from itertools import zip_longest

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.evaluator import Evaluator

from avsmamba.engine.evaluate import report, table
from avsmamba.evaluation import AVSMetric
from avsmamba.registry import METRICS
from tests.evaluation import reference
from tests.evaluation.clips import random_clips, sample
from tests.evaluation.one_rank import NUM_CLIPS, SEED, one_rank


def evaluate(samples, loader_batch=1, batch_size=4):
    evaluator = Evaluator(METRICS.build({"type": "AVSMetric", "batch_size": batch_size}))
    for i in range(0, len(samples), loader_batch):
        evaluator.process(samples[i : i + loader_batch])
    return evaluator.evaluate(len(samples))


@pytest.fixture
def clips():
    return random_clips(SEED, count=NUM_CLIPS)


@pytest.fixture
def samples(clips):
    return [sample(clip, i) for i, clip in enumerate(clips)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 20])
def test_equals_the_reference(clips, samples, batch_size):
    got = evaluate(samples, batch_size=batch_size)
    m_j, m_f = reference.frame(clips)
    batch_j, batch_f = reference.avsbench(clips, batch_size)
    expected = {
        "M_J": m_j,
        "M_F": m_f,
        "avsbench/M_J": batch_j,
        "avsbench/M_F": batch_f,
        "avsbench/batch_size": batch_size,
        "clips": NUM_CLIPS,
        "frames": 5 * NUM_CLIPS,
        "foreground": reference.foreground(clips),
    }
    assert {k: v for k, v in got.items() if not k.startswith("convention")} == pytest.approx(expected, abs=1e-9)
    # Anything but a float becomes null in mmengine's log.
    assert all(type(value) is float for value in got.values())
    assert report(got, "real")["avsbench"]["batch_size"] == batch_size
    assert f"avsbench (batch {batch_size})" in table(report(got, "real"))


@pytest.mark.parametrize("loader_batch", [2, 3, 5, NUM_CLIPS])
def test_the_loaders_batch_size_is_of_no_account(samples, loader_batch):
    assert evaluate(samples, loader_batch) == evaluate(samples)


@pytest.mark.parametrize("round_up", [False, True])
def test_interleaved_ranks(samples, round_up):
    """As DefaultSampler deals the clips out and collect_results joins them; with round_up one clip comes twice."""
    dealt = samples + samples[:1] * round_up
    ranks = []
    for rank in range(2):
        metric = AVSMetric()
        metric.process(None, dealt[rank::2])
        assert len(metric.results) == len(dealt[rank::2])
        ranks.append(pickle.loads(pickle.dumps(metric.results)))
    joined = [item for pair in zip_longest(*ranks) for item in pair if item is not None][: len(samples)]
    assert AVSMetric().compute_metrics(joined) == evaluate(samples)


def test_two_processes(samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mp.spawn(one_rank, (str(tmp_path),), nprocs=2)
    expected = evaluate(samples)
    assert torch.load("0.pt") == expected
    assert torch.load("1.pt") == expected
    assert not (tmp_path / ".dist_test").exists()


def test_silence_gives_foreground_and_background_iou(clips):
    logits, masks, scored = clips[0]
    quiet = sample((np.full_like(logits, -4.0), np.zeros_like(masks), scored))
    half = sample((np.where(np.arange(7) < 4, 4.0, -4.0).astype("float32") + 0 * logits, np.zeros_like(masks), scored))
    assert evaluate([quiet])["foreground"] == 0
    assert evaluate([quiet])["M_J"] == pytest.approx(1, abs=1e-6)
    got = evaluate([quiet, half])
    assert got["foreground"] == pytest.approx(2 / 7)
    assert got["M_J"] == pytest.approx((1 + 3 / 7) / 2, abs=1e-6)
    assert got["M_F"] == got["avsbench/M_F"] == 0


def test_only_frames_that_exist_and_are_labelled(clips):
    logits, masks, _ = clips[0]
    labelled = np.array([True, True, False, True, False])
    exists = torch.tensor([True, False, True, True, False])
    got = evaluate([sample((logits, masks, labelled), exists=exists)])
    assert got["frames"] == 2
    both = (logits, masks, labelled & exists.numpy())
    assert (got["M_J"], got["M_F"]) == pytest.approx(reference.frame([both]), abs=1e-9)
    assert (got["avsbench/M_J"], got["avsbench/M_F"]) == (got["M_J"], got["M_F"])
    assert got["foreground"] == pytest.approx(reference.foreground([both]))


def test_clips_of_different_sizes():
    clips = random_clips(1, 2, size=(5, 9)) + random_clips(2, 1, size=(8, 3), num_frames=1)
    got = evaluate([sample(c) for c in clips], batch_size=2)
    assert (got["M_J"], got["M_F"]) == pytest.approx(reference.frame(clips), abs=1e-9)
    assert (got["avsbench/M_J"], got["avsbench/M_F"]) == pytest.approx(reference.avsbench(clips, 2), abs=1e-9)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("pred_logits", torch.zeros(5, 2, 11, 7), r"clip_3: pred_logits: expected \(5, 1, 11, 7\).*\(5, 2, 11, 7\)"),
        ("pred_logits", torch.zeros(5, 1, 7, 11), r"clip_3: pred_logits: expected \(5, 1, 11, 7\).*\(5, 1, 7, 11\)"),
        ("pred_logits", torch.zeros(4, 1, 11, 7), r"clip_3: pred_logits: expected \(5, 1, 11, 7\)"),
        ("pred_logits", torch.full((5, 1, 11, 7), torch.nan), "clip_3: logits: .* NaN"),
        ("gt_masks", torch.zeros(5, 1, 11, 7), r"clip_3: gt_masks: expected \(T, h, w\)"),
        ("gt_temporal_mask_flag", torch.ones(4), r"clip_3: gt_temporal_mask_flag: expected \(5,\)"),
        ("vid_temporal_mask_flag", torch.ones(1), r"clip_3: vid_temporal_mask_flag: expected \(5,\)"),
        ("pred_logits", None, "clip_3: pred_logits is missing"),
        ("gt_temporal_mask_flag", None, "clip_3: gt_temporal_mask_flag is missing"),
    ],
)
def test_bad_samples(samples, field, value, words):
    fields = samples[3].to_dict()
    fields[field] = value
    with pytest.raises(ValueError, match=words):
        AVSMetric().process(None, [fields])


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "4", None, True])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match="batch_size: expected a positive integer"):
        AVSMetric(batch_size=batch_size)


def test_nothing_labelled(clips):
    logits, masks, scored = clips[0]
    with pytest.raises(ValueError, match="no frame is labelled"):
        evaluate([sample((logits, masks, scored & False))])
