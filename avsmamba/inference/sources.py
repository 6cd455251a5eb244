"""Input of a prediction: a video's pictures and sound, or arrays instead."""

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
STRIDE = 20.0  # s; a reader seeks at jumps of more than 30 s, and then resamples on another grid
ReadSound = Callable[[float, float], Wave]


class Info(NamedTuple):
    """The fields of `avsmamba.video.VideoInfo` that are used: pixels, seconds, pictures per second, audio or not."""

    width: int
    height: int
    duration: float | None
    frame_rate: float
    has_audio: bool


class Source(Protocol):
    """The methods of `avsmamba.video.Video` that are used."""

    @property
    def info(self) -> Any: ...

    def sampled(self, fps: float = 1.0, start: float = 0.0) -> Iterator[tuple[float, Picture]]: ...

    def frames(self) -> Iterator[tuple[float, Picture]]: ...

    def sound(self, start: float, stop: float) -> Wave: ...


class ArraySource:
    """Frames and a waveform instead of a video.

    Args:
        frames: `(T, H, W, 3)` uint8 RGB, `fps` per second.
        waveform: `(samples,)` or `(samples, channels)` in [-1, 1]; None is silence.
        sample_rate: of the waveform, Hz.
        fps: frames per second.

    Raises:
        ValueError: if a shape, type or the rate is wrong.
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
        """Yield the frames from `start` seconds on, each with its time; `fps` is that of the frames."""
        for k in range(round(start * self.fps), len(self.pictures)):
            yield k / self.fps, np.asarray(self.pictures[k])

    def frames(self) -> Iterator[tuple[float, Picture]]:
        """Yield the frames, each with its time."""
        return self.sampled(self.fps)

    def sound(self, start: float, stop: float) -> Wave:
        """Return `(samples,)` at 16 kHz between two times in seconds, zeros where there are none."""
        first, last = round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE)
        part = self.wave[first:last]
        return np.concatenate([part, np.zeros(last - first - len(part))])


class ForwardAudioReader:
    """Reader of a sound at 16 kHz, forward without gaps, so that samples do not depend on the first position.

    Args:
        read: returns `(samples,)` between two times in seconds; None is silence.
    """

    def __init__(self, read: ReadSound | None):
        self.read, self.at = read, -STRIDE

    def get(self, first: int, count: int) -> Wave:
        """Return `count` samples from sample `first` on; `first` never decreases by more than a window."""
        if self.read is None:
            return np.zeros(count, np.float32)
        start = first / SAMPLE_RATE
        while self.at < 0 or self.at + STRIDE < start:  # the first time at 0 s
            self.at += STRIDE
            self.read(self.at, self.at)
        self.at = max(self.at, start)
        return self.read(start, (first + count) / SAMPLE_RATE)


def open_source(video: Any, fps: float) -> AbstractContextManager[Source]:
    """Open a video by its path; take an open video, which stays open, or `(frames, waveform, sample_rate)`."""
    if isinstance(video, (str, Path)):
        from avsmamba.video import open_video

        return open_video(video, picture_rate=fps)
    if isinstance(video, Sequence):
        if len(video) != 3:
            raise ValueError(f"video: expected a path or (frames, waveform, sample_rate), got {len(video)} values")
        return nullcontext(ArraySource(video[0], video[1], video[2], fps))
    return nullcontext(video)


def name_of(video: Any) -> str:
    """Return the name of a video in messages: its path."""
    if isinstance(video, (str, Path)):
        return str(video)
    return "frames" if isinstance(video, Sequence) else str(video.info.path)


def stem_of(video: Any) -> str:
    """Return the stem of a video's output files: its name without the suffix; links are not followed."""
    return Path(os.path.abspath(name_of(video))).stem


def audio_file(source: Source, audio: str | Path, scratch: Path | None = None) -> str | Path | None:
    """Return the file with the sound that the model gets; None for silence.

    Args:
        source: an open video, or arrays.
        audio: 'real', 'silence' or a path.
        scratch: existing folder to which the waveform of arrays is written; without it they have no file.
    """
    if str(audio) != "real":
        return None if str(audio) == "silence" else audio
    if isinstance(source, ArraySource) and source.info.has_audio and scratch is not None:
        import soundfile

        soundfile.write(scratch / "sound.wav", source.wave, SAMPLE_RATE)
        return scratch / "sound.wav"
    return getattr(source.info, "path", None) if source.info.has_audio else None
