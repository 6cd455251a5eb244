"""Masks over a video's pictures: what changes, what must not, and where names go."""

import numpy as np
import pytest

from avsmamba.datasets.palette import PALETTE
from avsmamba.visualization.canvas import class_colour, class_name
from avsmamba.visualization.overlay import Overlay

CLASSES = ["background", "dog", "bell"]


def picture(height=90, width=141):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(height, width, y, x, radius):
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def test_one_class_tints_what_sounds_and_nothing_else():
    image, mask = picture(), disc(90, 141, 40, 70, 20)
    before = image.copy()
    drawn = Overlay({1: mask}, ["sounding"], (90, 141)).draw(image)
    np.testing.assert_array_equal(image, before)
    outside, inside = ~disc(90, 141, 40, 70, 24), disc(90, 141, 40, 70, 16)
    np.testing.assert_array_equal(drawn[outside], image[outside])
    colour = np.array(class_colour(1, 1))
    assert np.abs(drawn[inside].astype(float) - (0.58 * image[inside] + 0.42 * colour)).max() <= 1
    assert (drawn[20:23, 70] == colour).all(1).any(), "an outline in the full colour"


def test_nothing_sounds():
    image = picture()
    np.testing.assert_array_equal(Overlay({}, ["sounding"], (90, 141)).draw(image), image)


def test_classes_have_avsbench_s_colours_and_their_names():
    dog, thing = disc(90, 141, 45, 40, 12), disc(90, 141, 60, 125, 14)
    overlay = Overlay({1: dog, 2: thing}, CLASSES, (90, 141))
    drawn = overlay.draw(np.zeros((90, 141, 3), np.uint8))
    assert len(overlay.names) == 2
    for (y, x, sign), index, mask in zip(overlay.names, (1, 2), (dog, thing), strict=True):
        height, width = sign.shape[:2]
        assert y >= 0 and y + height <= 90 and x >= 0 and x + width <= 141
        np.testing.assert_array_equal(drawn[y : y + height, x : x + width], sign)
        assert (sign[0, 0] == PALETTE[index]).all() and len(np.unique(sign.reshape(-1, 3), axis=0)) > 3
        rest = mask.copy()
        for other in overlay.names:
            rest[other[0] : other[0] + other[2].shape[0], other[1] : other[1] + other[2].shape[1]] = False
        share = drawn[rest].astype(int) @ PALETTE[index] / (PALETTE[index].astype(int) @ PALETTE[index])
        assert ((share > 0.38) & (share <= 1.01)).mean() > 0.9


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (20, 20)])
def test_any_size(size):
    image = picture(*size)
    mask = np.ones(size, bool)
    for classes in (["sounding"], [*CLASSES[:1], "a rather long name of a thing that sounds"]):
        drawn = Overlay({1: mask}, classes, size).draw(image)
        assert drawn.shape == image.shape and drawn.dtype == np.uint8


def test_a_picture_of_another_size():
    with pytest.raises(ValueError, match=r"picture: expected \(90, 141, 3\) uint8"):
        Overlay({}, ["sounding"], (90, 141)).draw(picture(91, 141))


def test_names():
    assert class_name(1, ["sounding"]) == "sounding" and class_name(1, CLASSES) == "dog"
    assert class_name(7, CLASSES) == "class 7"
