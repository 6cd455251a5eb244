"""Read pictures and sound of any video, on one clock that starts at the first picture."""

from collections.abc import Container, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Protocol

import numpy as np

from avsmamba.utils import UserError
from avsmamba.video.container import TOLERANCE, TimedPicture, warn
from avsmamba.video.file import VideoFile
from avsmamba.video.folder import PictureFolder, find_wav
from avsmamba.video.sound import SAMPLE_RATE, Sound

END_MARGIN = 2e-3  # s; a sample this near the end of the video is not taken: containers round durations to ms


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
        path: of the file or folder.
        width: of the pictures, upright and with square pixels.
        height: of the pictures, upright and with square pixels.
        duration: of the pictures by the file's header, s; unreliable in a damaged file, enough for a progress bar.
        frame_rate: average, pictures per second.
        sample_rate: of the sound, Hz; None without sound.
        channels: of the sound; None without sound.
    """

    path: Path
    width: int
    height: int
    duration: float
    frame_rate: Fraction
    sample_rate: int | None
    channels: int | None

    @property
    def has_audio(self) -> bool:
        """Whether it has sound that can be decoded."""
        return self.sample_rate is not None


class PictureSource(Protocol):
    """A file or a folder of pictures; attributes as in `VideoInfo`."""

    width: int
    height: int
    duration: float
    frame_rate: Fraction

    def timed(self, start: float) -> Iterator[TimedPicture]:
        """Yield the picture shown at `start`, s, and all later ones."""


class Video(AbstractContextManager["Video", None]):
    """An open video, see `open_video`; a context manager.

    Every iterator opens the file anew, so several may be used in parallel. Each buffers only a few pictures.

    Attributes:
        info: properties of the video.
    """

    def __init__(self, info: VideoInfo, source: PictureSource, sound: Sound | None):
        self.info = info
        self._source = source
        self._sound = sound

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self._sound is not None:
            self._sound.close()

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
        """Yield every picture from a time on, in order.

        Damaged parts of a stream are skipped, with a `VideoWarning` at the end.

        Args:
            start: s.

        Yields:
            Its time, s, and the picture, `(H, W, 3)` uint8 RGB, upright.
        """
        for time, _, picture in self._source.timed(start):
            if time >= start - TOLERANCE:
                yield time, picture()

    def sampled(self, fps: float = 1.0, start: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the picture shown at each k / fps from a time on, until the video ends.

        Args:
            fps: pictures per second.
            start: s.

        Yields:
            The time k / fps, s, and the picture, `(H, W, 3)` uint8 RGB, upright.

        Raises:
            ValueError: if `fps` is not positive.
        """
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: expected a positive number, got {fps}")
        k = max(0, ceil(start * fps - TOLERANCE))
        shown, end = None, 0.0
        for time, until, picture in self._source.timed(k / fps):
            while shown is not None and k / fps < time - TOLERANCE:
                yield k / fps, shown()
                k += 1
            shown, end = picture, max(until, time + 2 * END_MARGIN)
        while shown is not None and k / fps < end - END_MARGIN:
            yield k / fps, shown()
            k += 1

    def times(self) -> Iterator[tuple[float, float]]:
        """Yield the time of every picture and of its end, s; no picture is converted to RGB."""
        for time, end, _ in self._source.timed(0.0):
            yield time, end

    def numbered(self, numbers: Container[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the pictures of some numbers, in order, as in `frames`; the first picture is number 0."""
        for number, (_, _, picture) in enumerate(self._source.timed(0.0)):
            if number in numbers:
                yield number, picture()

    def sound(self, start: float, stop: float) -> np.ndarray:
        """Return the sound between two times, s, see `Sound.read`; zeros without sound.

        Raises:
            ValueError: if the times are not in order.
        """
        if self._sound is not None:
            return self._sound.read(start, stop)
        if stop < start:
            raise ValueError(f"stop: expected at least start = {start}, got {stop}")
        return np.zeros(round(stop * SAMPLE_RATE) - round(start * SAMPLE_RATE), np.float32)


def open_video(path: str | Path, picture_rate: float = 1.0) -> Video:
    """Open a video, or a folder of pictures and a wav.

    The format is detected by content, not by name. Playlists and scripts that name other files are refused.

    Args:
        path: a file, or a folder of png or jpg files (in natural order) with at most one wav.
        picture_rate: of a folder's pictures, per second.

    Raises:
        UserError: if it is missing, cannot be read, or none of its pictures can be decoded.
    """
    path, sound = Path(path), None
    source: PictureSource
    if path.is_dir():
        source, wav = PictureFolder(path, picture_rate), find_wav(path)
        sound = None if wav is None else Sound(wav)
    else:
        source = video = VideoFile(path)
        if video.has_sound_stream:
            try:
                sound = Sound(path, video.origin)
            except UserError:
                warn(f"{path}: its sound cannot be decoded and is replaced by silence")
    sound_format = (None, None) if sound is None else (sound.sample_rate, sound.channels)
    size = source.width, source.height
    return Video(VideoInfo(path, *size, source.duration, source.frame_rate, *sound_format), source, sound)
