"""The semantic scores and AVSSMetric against tests/evaluation/semantic_reference.py."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from avsmamba.engine.evaluate import report, table
from avsmamba.evaluation import AVSSMetric, semantic_clip_scores, semantic_scores
from avsmamba.registry import METRICS
from avsmamba.structures import AVSDataSample
from tests.evaluation import semantic_reference as reference

CLASSES = ("background", "cat", "dog", "violin", "drum", "never")


def random_clip(rng, num_frames=10, size=(7, 5), classes=5):
    """Predictions that agree with the truth in a share of pixels; padding behind, of anything."""
    true = np.where(rng.random((num_frames, *size)) < 0.6, 0, rng.integers(0, classes, (num_frames, *size)))
    true *= rng.random((num_frames, 1, 1)) < 0.8
    guess = rng.integers(0, classes, true.shape)
    predicted = np.where(rng.random(true.shape) < rng.random(), true, guess)
    exists = np.arange(num_frames) < rng.choice([num_frames // 2, num_frames])
    labelled = exists & (rng.random(num_frames) < 0.8)
    labelled[0] = True
    predicted[~exists] = 0
    return predicted.astype(np.uint8), true.astype(np.uint8), labelled, exists


def random_clips(seed, count=5, **kwargs):
    rng = np.random.default_rng(seed)
    return [random_clip(rng, **kwargs) for _ in range(count)]


def items(clips, count=6):
    result = []
    for clip in clips:
        predicted, true, labelled, exists = map(torch.from_numpy, clip)
        result.append(semantic_clip_scores(predicted, true, count, labelled & exists, exists))
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (1, 9)])
def test_random_clips(seed, size):
    clips = random_clips(seed, size=size)
    frames = reference.scored_frames(clips)
    for padding, expected in ((False, reference.by_class(frames, 6)), (True, reference.public(clips, 6))):
        scores = semantic_scores(items(clips), padding)
        np.testing.assert_allclose(np.stack([scores.iou, scores.f_beta], 1), expected, atol=1e-12)
        assert scores.mean() == pytest.approx(tuple(expected.mean(0)))
        assert scores.without_background() == pytest.approx(tuple(expected[1:].mean(0)))
        present = [c for c in range(6) if any((g == c).any() for _, g in frames)]
        assert scores.present() == pytest.approx(tuple(expected[present].mean(0)))
        assert scores.true.tolist() == [sum((g == c).any() for _, g in frames) for c in range(6)]


def test_by_hand():
    true = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    predicted = np.array([[[0, 1, 1, 2]], [[0, 0, 0, 2]]])
    both = np.ones(2, bool)
    scores = semantic_scores(items([(predicted, true, both, both)], 4))
    # Class 2 is never true and counts with 0 in both frames; class 3 is never seen and scores 0.
    assert scores.iou.tolist() == pytest.approx([(1 / 2 + 3 / 4) / 2, 1 / 3, 0, 0])
    background = (1.3 * 0.5 / (0.3 + 0.5) + 1.3 * 0.75 / (0.3 + 0.75)) / 2
    assert scores.f_beta.tolist() == pytest.approx([background, 0.5, 0, 0])
    assert scores.mean()[0] == pytest.approx((5 / 8 + 1 / 3) / 4)
    assert scores.present()[0] == pytest.approx((5 / 8 + 1 / 3) / 2)
    assert scores.without_background()[0] == pytest.approx((1 / 3) / 3)


def test_padding_counts_as_background_under_avsbench_alone():
    true = np.ones((4, 1, 2), np.uint8)
    predicted = np.array([[[1, 0]]] * 4, np.uint8)
    exists = np.array([True, True, False, False])
    predicted[2:] = 7  # of no account, not even as an index
    item = items([(predicted, true, exists, exists)], 2)
    assert item[0].padded == 2 and item[0].frames == 2
    assert semantic_scores(item).iou.tolist() == [0, 0.5]
    assert semantic_scores(item, padding=True).iou.tolist() == [2 / 4, 0.5]


def test_perfect_and_silent():
    true = np.zeros((1, 3, 3), np.uint8)
    true[0, 0] = 2
    one = np.ones(1, bool)
    assert semantic_scores(items([(true, true, one, one)], 3)).present() == (1, 1)
    silent = items([(true * 0, true, one, one)], 3)
    assert semantic_scores(silent).iou.tolist() == pytest.approx([6 / 9, 0, 0]) and silent[0].foreground == 0


@pytest.mark.parametrize(
    ("labels", "masks", "words"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, 3), "expected equal"),
        (torch.zeros(2, 0, 4), torch.zeros(2, 0, 4), "at least one pixel"),
        (torch.full((2, 3, 4), 5), torch.zeros(2, 3, 4), "labels: expected class indices 0 to 4, got 5"),
        (torch.zeros(2, 3, 4), torch.full((2, 3, 4), 6), "masks: expected class indices 0 to 4, got 6"),
    ],
)
def test_bad_input(labels, masks, words):
    both = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=words):
        semantic_clip_scores(labels, masks, 5, both, both)


# The metric


def sample(clip, index=0):
    sample = AVSDataSample(metainfo={"clip": f"clip_{index}"})
    names = ("pred_labels", "gt_masks", "gt_temporal_mask_flag", "vid_temporal_mask_flag")
    for name, value in zip(names, clip, strict=True):
        setattr(sample, name, torch.from_numpy(value))
    return sample


def evaluate(samples, loader_batch=1):
    evaluator = Evaluator(METRICS.build({"type": "AVSSMetric"}))
    evaluator.dataset_meta = {"classes": CLASSES}
    for i in range(0, len(samples), loader_batch):
        evaluator.process(samples[i : i + loader_batch])
    return evaluator.evaluate(len(samples))


@pytest.fixture
def clips():
    return random_clips(9, 5) + random_clips(3, 2, size=(4, 9))


def test_the_metric_equals_the_reference(clips):
    samples = [sample(clip, i) for i, clip in enumerate(clips)]
    got = evaluate(samples)
    frames = reference.scored_frames(clips)
    table, public = reference.by_class(frames, 6), reference.public(clips, 6)
    pairs = {"": table.mean(0), "avsbench/": public.mean(0), "no_background/": table[1:].mean(0)}
    pairs |= {"avsbench/no_background/": public[1:].mean(0), "present/": table[:5].mean(0)}
    expected = {f"{key}{name}": v for key, pair in pairs.items() for name, v in zip(("M_J", "M_F"), pair, strict=True)}
    expected |= {"clips": 7, "frames": len(frames)}
    expected["foreground"] = np.mean([np.mean(p > 0) for p, _ in frames])
    for i, name in enumerate(CLASSES):
        expected |= {f"class/{name}/IoU": table[i, 0], f"class/{name}/F": table[i, 1]}
        expected[f"class/{name}/frames"] = sum((g == i).any() for _, g in frames)
    assert {k: v for k, v in got.items() if not k.startswith("convention")} == pytest.approx(expected)
    assert all(type(value) is float for value in got.values())
    assert evaluate(samples, 3) == got
    assert got["M_J"] != got["avsbench/M_J"]


def test_items_travel_between_processes(clips):
    metric = AVSSMetric()
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, [sample(clip, i).to_dict() | {"clip": i} for i, clip in enumerate(clips)])
    assert metric.compute_metrics(pickle.loads(pickle.dumps(metric.results))) == metric.compute_metrics(metric.results)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("pred_labels", None, "clip_3: pred_labels is missing"),
        ("pred_labels", torch.zeros(10, 5, 7), r"clip_3: pred_labels: expected \(10, 7, 5\) \(T, size of gt_masks\)"),
        ("pred_labels", torch.full((10, 7, 5), 6), "clip_3: labels: expected class indices 0 to 5, got 6"),
        ("gt_masks", torch.full((10, 7, 5), 9), "clip_3: masks: expected class indices 0 to 5, got 9"),
        ("vid_temporal_mask_flag", torch.ones(1), r"clip_3: vid_temporal_mask_flag: expected \(10,\)"),
    ],
)
def test_bad_samples(clips, field, value, words):
    fields = sample(clips[0], 3).to_dict() | {"clip": "clip_3", field: value}
    metric = AVSSMetric()
    metric.dataset_meta = {"classes": CLASSES}
    with pytest.raises(ValueError, match=words):
        metric.process(None, [fields])


def test_nothing_labelled_and_no_classes(clips):
    predicted, true, labelled, exists = clips[0]
    with pytest.raises(ValueError, match="no frame is labelled"):
        evaluate([sample((predicted, true, labelled & False, exists))])
    metric = AVSSMetric()
    metric.dataset_meta = {"classes": ("sounding",)}
    with pytest.raises(ValueError, match=r"AVSSMetric: needs a data set of two or more classes .*\['sounding'\]"):
        metric.process(None, [sample(clips[0])])


def test_metrics_json_and_the_table(clips):
    got = evaluate([sample(clip, i) for i, clip in enumerate(clips)])
    metrics = report(got, "real")
    assert metrics["frame"]["M_J"] == got["M_J"] and metrics["avsbench"]["M_F"] == got["avsbench/M_F"]
    assert metrics["frame"]["present"]["M_J"] == got["present/M_J"] and "batch_size" not in metrics["avsbench"]
    assert metrics["avsbench"]["no_background"]["M_F"] == got["avsbench/no_background/M_F"]
    assert list(metrics["classes"]) == list(CLASSES)
    assert metrics["classes"]["cat"]["F"] == got["class/cat/F"] and metrics["classes"]["never"]["frames"] == 0
    lines = table(metrics).splitlines()
    assert [line[:26].strip() for line in lines[1:8]] == [
        "protocol",
        "avs_mamba (avsbench/224)",
        "frame",
        "frame, no background",
        "frame, classes present",
        "avsbench",
        "avsbench, no background",
    ]
    assert lines[-1].split() == ["never", "0.0000", "0.0000", "0"]
