"""What tests of `avsmamba predict` share: reading what it wrote, and interrupting it."""

import signal

import numpy as np

from avsmamba.video import open_video

FILES = ["masks", "masks.json", "overlay.mp4", "timeline.png"]


def pictures(path):
    with open_video(path) as opened:
        return [(time, picture) for time, picture in opened.frames()]


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same_result(first, second):
    """Assert that masks, masks.json and timeline are the same to the byte, and the overlays up to their encoding."""
    first_files, second_files = tree(first), tree(second)
    assert sorted(first_files) == sorted(second_files) and first_files.pop("overlay.mp4")
    assert not [name for name, content in first_files.items() if content != second_files[name]]
    shown = pictures(first / "overlay.mp4"), pictures(second / "overlay.mp4")
    for (time, one), (other_time, other) in zip(*shown, strict=True):
        # At some widths x264 (macroblock tree) reads memory that it has not written, and its choices differ.
        assert time == other_time and np.abs(one.astype(int) - other).mean() < 2


class Interrupt:
    """A progress that sends this process a signal when so many frames are done."""

    def __init__(self, frames, number=signal.SIGINT):
        self.frames, self.number = frames, number

    def __call__(self, done, _):
        if done == self.frames:
            self.frames = None
            signal.raise_signal(self.number)
