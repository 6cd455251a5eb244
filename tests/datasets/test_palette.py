"""The palette against the rule written out bit by bit, and against PASCAL VOC's first colours as published."""

import numpy as np
import pytest

from avsmamba.datasets.palette import PALETTE, to_colours, to_indices


def by_the_rule(j):
    colour = [0, 0, 0]
    for i in range(3):
        for channel in range(3):
            if j & (1 << (3 * i + channel)):
                colour[channel] |= 1 << (7 - i)
    return colour


def test_the_rule():
    assert PALETTE.dtype == np.uint8 and PALETTE.tolist() == [by_the_rule(j) for j in range(256)]
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(c) for c in PALETTE[:7].tolist()] == voc


def test_both_ways():
    indices = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    assert np.array_equal(to_indices(to_colours(indices)), indices)
    assert to_indices(np.zeros((0, 3, 3), np.uint8)).shape == (0, 3)


def test_every_other_colour_is_refused():
    known = {tuple(c) for c in PALETTE.tolist()}
    steps = (0, 1, 31, 32, 64, 128, 160, 192, 223, 224, 255)
    for colour in ((r, g, b) for r in steps for g in steps for b in steps):
        picture = np.zeros((2, 2, 3), np.uint8)
        picture[1, 0] = colour
        if colour in known:
            assert to_colours(to_indices(picture))[1, 0].tolist() == list(colour)
        else:
            with pytest.raises(ValueError, match=rf"no class has the colour \({colour[0]}, {colour[1]}, {colour[2]}\)"):
                to_indices(picture)


@pytest.mark.parametrize("value", [-1, 256])
def test_indices_out_of_range(value):
    with pytest.raises(ValueError, match="indices: expected 0 to 255"):
        to_colours(np.array([[0, value]]))
