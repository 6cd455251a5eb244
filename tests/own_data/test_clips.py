import numpy as np
import pytest

from avsmamba.own_data.clips import Timeline, cut
from avsmamba.own_data.labelled import LabelledVideo


def timeline(times, numbers=None, seconds=None):
    """A video with pictures at `times`, labelled by number or by time."""
    timed = numbers is None
    video = LabelledVideo("v", None, "labels", seconds if timed else numbers, None, timed=timed)
    times = np.array(times, float)
    shown = np.searchsorted(times, np.array(seconds) + 1e-6) - 1 if timed else np.array(numbers)
    at = np.array(seconds, float) if timed else times[shown]
    return Timeline(video, (4, 4), times, float(times[-1] + times[1] - times[0]), shown, at, True)


def test_the_picture_shown_at_a_second_and_its_label():
    every = timeline(np.arange(75) / 25, range(75))
    assert [every.chosen(s, 0) for s in range(every.seconds)] == [(0, 0), (25, 25), (50, 50)]
    assert [every.chosen(s, 0.5) for s in range(3)] == [(12, 12), (37, 37), (62, 62)]
    ntsc = timeline(np.arange(90) * 1001 / 30000, range(90))
    # Picture 30 is shown from 1.001 s on, so that at 1 s it is picture 29.
    assert ntsc.seconds == 4 and [ntsc.chosen(s, 0) for s in range(3)] == [(0, 0), (29, 29), (59, 59)]
    sparse = timeline(np.arange(75) / 25, [0, 10, 20, 30, 63])
    assert [sparse.chosen(s, 0) for s in range(3)] == [(0, 0), (20, 2), (50, None)]


def test_pictures_that_stay():
    slides = timeline([0, 2, 4], [0, 2])
    assert [slides.chosen(s, 0) for s in range(6)] == [(0, 0), (0, 0), (1, None), (1, None), (2, 1), (2, 1)]
    by_time = timeline([0, 2, 4], seconds=[0, 1, 3])
    assert [by_time.chosen(s, 0) for s in range(5)] == [(0, 0), (0, 1), (1, None), (1, 2), (2, None)]


@pytest.mark.parametrize(
    ("seconds", "labelled", "starts"),
    [
        ([0, 1, 2, 3, 4, 5, 6], 3, [0, 3]),
        ([1, 2, 3, 5, 6, 7, 8], 3, [1, 5]),
        ([0, 2, 6, 9], 1, [0, 6]),
        ([0, 1], 3, []),
    ],
)
def test_clips_follow_each_other(seconds, labelled, starts):
    found = list(cut(timeline(range(10), seconds=seconds), "train", 3, 0.0, labelled))
    assert [clip.start for clip in found] == starts == [int(clip.name.removeprefix("v_")) for clip in found]
    assert all(clip.pictures == tuple(range(clip.start, clip.start + 3)) for clip in found)
