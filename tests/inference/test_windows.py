"""Windows over a stream: every frame's mean against one that is written out, and what is held at a time."""

import weakref

import numpy as np
import pytest
import torch

from avsmamba.inference.windows import blended, first_window, window_weights


def value(frame, begin, count):
    """Return the result of a window of `count` frames from `begin` on for a frame, different for all three."""
    return torch.tensor([np.sin(frame + 0.1), begin * 0.5 + frame, count / (frame + 1.0)], dtype=torch.float64)


def run(window):
    return torch.stack([value(frame, window[0], len(window)) for frame in window])


def expected(number, length, overlap):
    """Return means over whole videos, from all windows at once."""
    starts = list(range(0, max(1, number - length + 1), length - overlap))
    if starts[-1] + length < number:
        starts.append(number - length)
    means = []
    for frame in range(number):
        total, weights = torch.zeros(3, dtype=torch.float64), 0
        for start in starts:
            count = min(length, number - start)
            if start <= frame < start + count:
                weight = min(frame - start, start + count - 1 - frame) + 1
                total, weights = total + weight * value(frame, start, count), weights + weight
        means.append(total / weights)
    return means


CASES = [(length, overlap) for length in (1, 2, 5, 10) for overlap in range(length)]


@pytest.mark.parametrize(("length", "overlap"), CASES)
def test_means_are_those_written_out(length, overlap):
    for number in range(1, 24):
        found = list(blended(iter(range(number)), length, overlap, run))
        assert [frame for frame, _ in found] == list(range(number))
        for (_, mean), wanted in zip(found, expected(number, length, overlap), strict=True):
            torch.testing.assert_close(mean, wanted)


@pytest.mark.parametrize(("length", "overlap"), CASES)
def test_going_on_in_the_middle_gives_the_same_bits(length, overlap):
    for number in (1, 4, 13, 22):
        whole = dict(blended(iter(range(number)), length, overlap, run))
        for frame in range(number):
            begin = first_window(frame, length, overlap)
            assert begin <= frame and begin % (length - overlap) == 0
            later = dict(blended(iter(range(begin, number)), length, overlap, run))
            assert all(torch.equal(later[k], whole[k]) for k in range(frame, number))


def test_a_window_alone_keeps_its_values_to_the_bit():
    found = list(blended(range(7), 7, 3, run))
    assert all(torch.equal(mean, value(frame, 0, 7)) for frame, mean in found)


def test_no_more_than_a_window_is_held():
    alive, most = set(), 0

    class Frame:
        def __init__(self, index):
            self.index = index
            alive.add(index)
            weakref.finalize(self, alive.discard, index)

    stream = blended((Frame(k) for k in range(40)), 5, 2, lambda window: torch.zeros(len(window)))
    for frame, _ in stream:
        most = max(most, len(alive))
        assert frame.index in alive
        del frame
    # The yielded frame, and the window after it.
    assert most <= 6


def test_weights_fall_towards_the_edges():
    assert window_weights(5).tolist() == [1, 2, 3, 2, 1] and window_weights(4).tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize(("length", "overlap"), [(5, 5), (5, -1), (0, 0)])
def test_an_overlap_that_does_not_fit(length, overlap):
    with pytest.raises(ValueError, match="overlap: expected 0 to"):
        next(blended(range(3), length, overlap, run))
