"""The picture of a clip: every pane shows what it says."""

import numpy as np
import pytest

from avsmamba.datasets.palette import PALETTE
from avsmamba.visualization import clip_picture
from avsmamba.visualization.canvas import PREDICTION, TRUTH

rng = np.random.default_rng(0)


def clip(frames=5, size=(96, 96), labels=None):
    labels = labels or size
    gt, predicted = np.zeros((frames, *labels), np.uint8), np.zeros((frames, *labels), np.uint8)
    return {
        "frames": rng.integers(0, 256, (frames, 3, *size), dtype=np.uint8),
        "log_mel": rng.normal(size=(frames, 1, 96, 64)).astype(np.float32),
        "gt_masks": gt,
        "predicted": predicted,
        "title": "a clip",
    }


def count(picture, colour):
    return int((picture == np.array(colour, np.uint8)).all(-1).sum())


@pytest.mark.parametrize(
    "size, labels", [((96, 96), None), ((40, 72), (33, 51)), ((512, 300), (512, 300)), ((7, 5), (1, 1))]
)
@pytest.mark.parametrize("frames", [1, 5])
def test_size_holds_whole_multiples_of_the_frames(size, labels, frames):
    picture = clip_picture(**clip(frames, size, labels))
    scale = max(1, -(-176 // size[1]))
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert picture.shape[0] > 3 * size[0] * scale and picture.shape[1] > frames * size[1] * scale
    assert (picture[0] == 255).all() and (picture[:, -1] == 255).all()


def test_a_large_frame_is_shown_pixel_for_pixel():
    given = clip(size=(180, 200))
    picture = clip_picture(**given)
    frame = given["frames"][3].transpose(1, 2, 0)
    rows, columns = np.where((picture == frame[0, 0]).all(-1))
    assert any(
        (picture[y : y + 180, x : x + 200].shape == frame.shape) and (picture[y : y + 180, x : x + 200] == frame).all()
        for y, x in zip(rows, columns, strict=True)
    )


def test_truth_and_prediction_have_their_own_colours_and_places():
    given = clip(size=(200, 200))
    assert count(clip_picture(**given), TRUTH) == count(clip_picture(**given), PREDICTION) == 0
    given["gt_masks"][2, 50:150, 60:140] = 1
    given["predicted"][4, 20:60, 20:60] = 1
    picture = clip_picture(**given)
    truth, prediction = np.argwhere((picture == TRUTH).all(-1)), np.argwhere((picture == PREDICTION).all(-1))
    assert 78 <= np.ptp(truth[:, 1]) <= 86 and 98 <= np.ptp(truth[:, 0]) <= 106
    assert 38 <= np.ptp(prediction[:, 1]) <= 46 and 38 <= np.ptp(prediction[:, 0]) <= 46
    assert prediction[:, 0].min() > truth[:, 0].max() and prediction[:, 1].min() > truth[:, 1].max()


def test_masks_of_another_size_are_stretched_over_the_frame():
    given = clip(frames=1, size=(200, 300), labels=(2, 3))
    given["predicted"][0, 1, 2] = 1
    found = np.argwhere((clip_picture(**given) == PREDICTION).all(-1))
    assert 98 <= np.ptp(found[:, 0]) <= 104 and 98 <= np.ptp(found[:, 1]) <= 104


def test_an_unlabelled_frame_shows_no_mask_and_says_so():
    given = clip()
    given["gt_masks"][:] = 1
    labelled = np.array([True, False, False, False, False])
    assert 0 < count(clip_picture(**given, labelled=labelled), TRUTH) < count(clip_picture(**given), TRUTH)
    given["gt_masks"][1:] = 0
    empty, unknown = clip_picture(**given), clip_picture(**given, labelled=labelled)
    assert (empty != unknown).any()


def test_sound_has_time_to_the_right_low_bands_below_and_one_scale():
    given = clip(frames=2, size=(192, 192))
    given["frames"][0], given["frames"][1] = 255, 0
    given["log_mel"][:] = -20
    given["log_mel"][1, 0, :24, :32] = 20
    picture = clip_picture(**given)
    second = np.argwhere((picture == 0).all(-1))
    bright = np.argwhere((picture == [252, 253, 191]).all(-1))
    assert abs(bright[:, 1].min() - second[:, 1].min()) <= 1 and 46 <= np.ptp(bright[:, 1]) <= 50
    strip = 192 * 3 // 8
    assert abs(np.ptp(bright[:, 0]) - strip / 2) <= 2
    assert 0 < bright[:, 0].max() - strip - second[:, 0].max() <= 8
    quiet, louder = (clip_picture(**{**given, "log_mel": np.full_like(given["log_mel"], v)}) for v in (-4.7, -2.0))
    assert (quiet != louder).any()


def test_a_long_title_is_cut():
    given = clip(frames=1)
    assert clip_picture(**{**given, "title": "x" * 500}).shape == clip_picture(**given).shape


@pytest.mark.parametrize(
    "name, value",
    [
        ("frames", np.zeros((5, 96, 96, 3), np.uint8)),
        ("frames", np.zeros((5, 3, 96, 96), np.float32)),
        ("frames", np.zeros((0, 3, 96, 96), np.uint8)),
        ("log_mel", np.zeros((4, 1, 96, 64), np.float32)),
        ("log_mel", np.zeros((5, 96, 64), np.float32)),
        ("gt_masks", np.zeros((4, 96, 96), np.uint8)),
        ("predicted", np.zeros((5, 1, 96, 96), np.float32)),
        ("labelled", np.ones(4, bool)),
    ],
)
def test_errors_name_the_argument(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        clip_picture(**{**clip(), name: value})


# Several classes

CLASSES = ("background", *(f"class-{i}" for i in range(1, 71)))


def semantic(frames=5, size=(200, 200), labels=None):
    return clip(frames, size, labels) | {"classes": CLASSES}


def test_classes_have_their_colours_in_masks_and_legend():
    given = semantic()
    given["gt_masks"][2, 50:150, 60:140] = 5
    given["predicted"][2, 50:150, 60:140] = 70
    given["predicted"][4, 20:60, 20:60] = 5
    picture = clip_picture(**given)
    plain = clip_picture(**clip(size=(200, 200)))
    rows = len(plain)  # what is below is the legend
    assert picture.shape[1] == plain.shape[1] and len(picture) > rows
    assert count(picture[:rows], PALETTE[5]) > 200 and count(picture[:rows], PALETTE[70]) > 200
    for index in range(1, 71):
        assert (count(picture[rows:], PALETTE[index]) > 50) == (index in (5, 70)), index
    outline = np.argwhere((picture[:rows] == PALETTE[70]).all(-1))
    assert 98 <= np.ptp(outline[:, 0]) <= 106 and 78 <= np.ptp(outline[:, 1]) <= 86
    assert outline[:, 0].min() > np.argwhere((picture == PALETTE[5]).all(-1))[:, 0].min()


def test_a_legend_takes_as_many_lines_as_it_needs():
    given = semantic(frames=2, size=(96, 96))
    heights = []
    for number in (0, 1, 4, 70):
        given["predicted"].flat[: number + 1] = np.arange(number + 1)
        heights.append(len(clip_picture(**given)))
    assert heights == sorted(heights) and heights[0] < heights[1] and heights[2] + 100 < heights[3]
    given["classes"] = ["x" * 300] * 71
    assert clip_picture(**given).shape[1] == clip_picture(**{**given, "classes": ()}).shape[1]


def test_unlabelled_frames_are_not_in_the_legend():
    given = semantic()
    given["gt_masks"][1:] = 5
    assert count(clip_picture(**given), PALETTE[5]) > 0
    labelled = np.array([True, False, False, False, False])
    assert count(clip_picture(**given, labelled=labelled), PALETTE[5]) == 0
