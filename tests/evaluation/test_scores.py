"""The scores against tests/evaluation/reference.py, on random and on extreme input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avsmamba.evaluation.scores import THRESHOLDS, avsbench_protocol, clip_scores, frame_protocol, frame_scores
from avsmamba.evaluation.scores import threshold_counts as counts_at
from tests.evaluation import reference
from tests.evaluation.clips import random_clip, random_clips

TOLERANCE = 1e-9


def scores(clips):
    return [clip_scores(*map(torch.from_numpy, clip)) for clip in clips]


def compare(clips, batch_size=4):
    items = scores(clips)
    np.testing.assert_allclose(frame_protocol(items), reference.frame(clips), atol=TOLERANCE)
    got = avsbench_protocol(items, batch_size)
    np.testing.assert_allclose(got, reference.avsbench(clips, batch_size), atol=TOLERANCE)


def one_clip(logits, mask):
    logits, mask = np.asarray(logits, np.float32), np.asarray(mask, np.uint8)
    return [(logits[None], mask[None], np.ones(1, bool))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(11, 7), (1, 1), (1, 13), (32, 32)])
def test_random_clips(seed, size):
    compare(random_clips(seed, size=size), batch_size=seed + 1)


@pytest.mark.parametrize("kind", ["blob", "empty", "full", "pixel"])
@pytest.mark.parametrize("level", [-1e4, -30.0, -1e-3, 0.0, 1e-3, 20.0, 30.0, 1e4, -np.inf, np.inf])
def test_constant_logits(kind, level):
    _, mask, _ = random_clip(np.random.default_rng(3), num_frames=1, kinds=(kind,))
    compare(one_clip(np.full(mask[0].shape, level), mask[0]))


@pytest.mark.parametrize("level", [5.0, 1e4])
def test_perfect_and_inverted(level):
    mask = np.arange(15).reshape(3, 5) % 3 == 0
    perfect = frame_protocol(scores(one_clip(np.where(mask, level, -level), mask)))
    inverted = frame_protocol(scores(one_clip(np.where(mask, -level, level), mask)))
    assert perfect == pytest.approx((1, 1), abs=1e-6)
    # Threshold 0 takes every pixel: precision 1/3, recall 1.
    assert inverted == pytest.approx((0, 1.3 / 3 / (0.1 + 1)), abs=1e-6)
    compare(one_clip(np.where(mask, -level, level), mask))


def test_by_hand():
    # P = 3 pixels at 0.5, one of the two true ones among them; the other has the lowest p.
    clip = one_clip([[2.0, 1.0, 0.5], [-3.0, -2.0, -1.0]], [[1, 0, 0], [1, 0, 0]])
    m_j, m_f = frame_protocol(scores(clip))
    assert m_j == pytest.approx(1 / 4, abs=1e-6)
    # Candidates: precision 1 with recall 1/2 (above the second pixel), or 1/3 with recall 1 (everything).
    assert m_f == pytest.approx(1.3 * 0.5 / (0.3 + 0.5), abs=1e-6)


def test_silence():
    empty = np.zeros((2, 3))
    quiet, loud = np.full((2, 3), -5.0), np.array([[5.0, 5.0, -5.0], [-5.0, -5.0, -5.0]])
    assert frame_protocol(scores(one_clip(quiet, empty))) == pytest.approx((1, 0), abs=1e-6)
    assert frame_protocol(scores(one_clip(loud, empty))) == pytest.approx((4 / 6, 0), abs=1e-6)
    # A silent frame moves M_J but not M_F.
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    both = one_clip(loud, mask) + one_clip(loud, empty)
    assert frame_protocol(scores(both)) == pytest.approx((5 / 6, 1), abs=1e-6)


def test_at_one_half_is_background():
    frames = frame_scores(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert frames.foreground.item() == 0
    assert frames.iou.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("side", ["on", "below"])
def test_values_on_thresholds(side):
    """p >= threshold: checked on the probabilities, since no logit hits a threshold exactly."""
    p = THRESHOLDS.clone() if side == "on" else torch.nextafter(THRESHOLDS, torch.tensor(-1.0, dtype=torch.float64))
    p = p.clamp(min=0).view(1, 15, 17)
    mask = (torch.arange(255) % 3 == 0).view(1, 15, 17)
    hits, predicted = counts_at(p, mask)
    thresholds = np.linspace(0, 1 - 1e-10, 255)
    for k, threshold in enumerate(thresholds):
        above = p.numpy() >= threshold
        assert predicted[0, k] == above.sum()
        assert hits[0, k] == (above & mask.numpy()).sum()
    assert predicted[0, 100] == (155 if side == "on" else 154)


LOGITS = st.one_of(
    st.floats(width=32, allow_nan=False),
    st.floats(-6, 6, width=32),
    st.sampled_from([0.0, -0.0, 1e4, -1e4, 16.5, 23.0, 23.1, 1e-45, -1e-45]),
    st.sampled_from([float(np.log(t / (1 - t))) for t in np.linspace(0, 1 - 1e-10, 255)[1:]]).map(np.float32),
)


@st.composite
def any_clips(draw):
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    clips = []
    for _ in range(draw(st.integers(1, 4))):
        shape = (draw(st.integers(1, 3)), *size)
        masks = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
        logits = draw(hnp.arrays(np.float32, shape, elements=LOGITS))
        clips.append((logits, masks, draw(hnp.arrays(bool, shape[:1], fill=st.nothing()))))
    clips[0][2][0] = True
    return clips


@settings(max_examples=150, deadline=None)
@given(any_clips(), st.integers(1, 5))
def test_any_clips(clips, batch_size):
    compare(clips, batch_size)


def test_short_last_batch_weighs_as_a_full_one():
    mask = np.eye(4)
    hit, miss = np.where(mask, 9.0, -9.0), np.where(mask, -9.0, 9.0)
    clips = [one_clip(logits, mask)[0] for logits in (hit, hit, hit, hit, miss)]
    items = scores(clips)
    assert frame_protocol(items)[0] == pytest.approx(4 / 5, abs=1e-6)
    assert avsbench_protocol(items, 4)[0] == pytest.approx(1 / 2, abs=1e-6)
    compare(clips, 4)


def test_each_batch_has_its_own_threshold():
    mask = np.array([[1, 0, 0]])
    clips = one_clip([[-1.0, -2.0, -2.0]], mask) + one_clip([[2.0, 1.0, 1.0]], mask)
    items = scores(clips)
    assert avsbench_protocol(items, 1)[1] == pytest.approx(1, abs=1e-6)
    assert frame_protocol(items)[1] < 0.8
    assert avsbench_protocol(items, 2) == frame_protocol(items)
    compare(clips, 1)


def test_a_batch_without_sound_has_no_f_measure():
    mask, logits = np.array([[1, 0]]), np.array([[3.0, -3.0]])
    clips = one_clip(logits, mask) + one_clip(logits, mask * 0)
    assert frame_protocol(scores(clips))[1] == pytest.approx(1, abs=1e-6)
    assert avsbench_protocol(scores(clips), 1)[1] == pytest.approx(1 / 2, abs=1e-6)


def test_unscored_frames_do_not_count():
    clips = random_clips(5, count=4)
    for i, (_, _, scored) in enumerate(clips):
        scored[i % 5] = False
        scored[1:] &= i != 2
    clips[3][2][:] = False
    kept = [(x[s], g[s], s[s]) for x, g, s in clips]
    for batch_size in (1, 2, 3):
        compare(clips, batch_size)
        assert avsbench_protocol(scores(clips), batch_size) == avsbench_protocol(scores(kept), batch_size)
    # What stands in an unscored frame is of no account.
    clips[0][0][0] = np.nan
    assert frame_protocol(scores(clips)) == frame_protocol(scores(kept))


def test_counts_are_exact_in_large_frames():
    """float32 sums stop counting at 2^24 and float16 ones at 2^11; a frame of 4 million pixels must not round."""
    logits, mask = torch.full((1, 2048, 2048), 3.0), torch.ones(1, 2048, 2048, dtype=torch.uint8)
    logits[0, 0, 0] = -3.0
    frames = frame_scores(logits.half(), mask)
    assert frames.iou.item() == pytest.approx((2**22 - 1) / 2**22, abs=1e-12)
    assert frames.f_beta[0, 0].item() == 1


@pytest.mark.parametrize(
    ("logits", "masks", "words"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, 3), "expected equal"),
        (torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), "expected equal"),
        (torch.zeros(2, 0, 4), torch.zeros(2, 0, 4), "at least one pixel"),
        (torch.full((1, 2, 2), torch.nan), torch.zeros(1, 2, 2), "NaN"),
    ],
)
def test_bad_input(logits, masks, words):
    with pytest.raises(ValueError, match=words):
        frame_scores(logits, masks)


def test_nothing_to_score():
    items = [clip_scores(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.bool))]
    for protocol in (frame_protocol, lambda clips: avsbench_protocol(clips, 4)):
        for clips in (items, []):
            with pytest.raises(ValueError, match="no frame is labelled"):
                protocol(clips)
    with pytest.raises(ValueError, match="scored: expected"):
        clip_scores(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="batch_size"):
        avsbench_protocol(items, 0)
