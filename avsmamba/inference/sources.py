"""What a model sees and hears: a video's pictures and sound, or arrays in their place."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from avsmamba.datasets.log_mel import SAMPLE_RATE, to_mono

Picture = NDArray[np.uint8]
Wave = NDArray[np.floating]
STRIDE = 20.0  # s; a jump further than 30 s ahead would make a reader seek, and resample on another grid
ReadSound = Callable[[float, float], Wave]


class Info(NamedTuple):
    """What is read of `avsmamba.video.VideoInfo`: pixels, seconds, pictures a second, whether there is sound."""

    width: int
    height: int
    duration: float | None
    frame_rate: float
    has_audio: bool


class Source(Protocol):
    """What `avsmamba.video.Video` offers and is used here."""

    @property
    def info(self) -> Any: ...

    def sampled(self, fps: float = 1.0, start: float = 0.0) -> Iterator[tuple[float, Picture]]: ...

    def frames(self) -> Iterator[tuple[float, Picture]]: ...

    def sound(self, start: float, stop: float) -> Wave: ...


class ArraySource:
    """Frames and a waveform in the place of a video.

    Args:
        frames: `(T, H, W, 3)` uint8 RGB, `fps` a second.
        waveform: `(samples,)` or `(samples, channels)` in [-1, 1]; None is silence.
        sample_rate: of the waveform, Hz.
        fps: frames a second.

    Raises:
        ValueError: if a shape, type or the rate does not fit.
    """

    def __init__(self, frames: Any, waveform: Any, sample_rate: int, fps: float = 1.0):
        shapes = {np.shape(frame) for frame in frames}
        if len(shapes) != 1 or len(next(iter(shapes))) != 3 or next(iter(shapes))[2] != 3 or 0 in next(iter(shapes)):
            raise ValueError(f"frames: expected (T, H, W, 3), got {len(frames)} of {sorted(shapes)}")
        if any(np.asarray(frame).dtype != np.uint8 for frame in frames):
            raise ValueError("frames: expected uint8 RGB in [0, 255]")
        self.pictures, self.fps = frames, fps
        self.wave = np.zeros(0) if waveform is None else to_mono(waveform, sample_rate)
        height, width = next(iter(shapes))[:2]
        self.info = Info(width, height, len(frames) / fps, fps, waveform is not None)

    def sampled(self, fps: float = 1.0, start: float = 0.0) -> Iterator[tuple[float, Picture]]:
        """The frames from `start` seconds on, each with its time; `fps` is that of the frames."""
        for k in range(round(start * self.fps), len(self.pictures)):
            yield k / self.fps, np.asarray(self.pictures[k])

    def frames(self) -> Iterator[tuple[float, Picture]]:
        """Return the frames, each with its time."""
        return self.sampled(self.fps)

    def sound(self, start: float, stop: float) -> Wave:
        """`(samples,)` at 16 kHz between those seconds, zeros where there are none."""
        first, last = round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE)
        part = self.wave[first:last]
        return np.concatenate([part, np.zeros(last - first - len(part))])


class Listener:
    """Reads a sound at 16 kHz forwards and without a gap, so that a part of it is the same wherever reading began.

    Args:
        read: `(samples,)` between two seconds; None is silence.
    """

    def __init__(self, read: ReadSound | None):
        self.read, self.at = read, -STRIDE

    def get(self, first: int, count: int) -> Wave:
        """`count` samples from sample `first` on; `first` never falls by more than a window."""
        if self.read is None:
            return np.zeros(count, np.float32)
        start = first / SAMPLE_RATE
        while self.at < 0 or self.at + STRIDE < start:  # the first time at 0 s
            self.at += STRIDE
            self.read(self.at, self.at)
        self.at = max(self.at, start)
        return self.read(start, (first + count) / SAMPLE_RATE)


def open_source(video: Any, fps: float) -> AbstractContextManager[Source]:
    """A video by its path, a video that is open (and is left open), or `(frames, waveform, sample_rate)`."""
    if isinstance(video, (str, Path)):
        from avsmamba.video import open_video

        return open_video(video, picture_rate=fps)
    if isinstance(video, Sequence):
        if len(video) != 3:
            raise ValueError(f"video: expected a path or (frames, waveform, sample_rate), got {len(video)} values")
        return nullcontext(ArraySource(video[0], video[1], video[2], fps))
    return nullcontext(video)


def name_of(video: Any) -> str:
    """What a video is called in messages: its path."""
    if isinstance(video, (str, Path)):
        return str(video)
    return "frames" if isinstance(video, Sequence) else str(video.info.path)


def stem_of(video: Any) -> str:
    """What the files of a video are called by: its name without the suffix; links are not followed."""
    return Path(os.path.abspath(name_of(video))).stem


def heard_file(source: Source, audio: str | Path) -> str | Path | None:
    """The file whose sound the model hears, or None for silence and for arrays."""
    if str(audio) != "real":
        return None if str(audio) == "silence" else audio
    return getattr(source.info, "path", None) if source.info.has_audio else None
