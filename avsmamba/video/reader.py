"""Pictures and sound of any video on one clock that starts at its first picture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from avsmamba.utils import UserError
from avsmamba.video.container import (
    LONGEST_GAP,
    MOST_PIXELS,
    Faults,
    decode,
    demux,
    find_stream,
    open_container,
    seek,
    stamp,
    warn,
)
from avsmamba.video.sound import SAMPLE_RATE, Sound

CLOSE = 1e-6  # s; times that are the same but for rounding
CLOSEST = 1e-4  # s between pictures; what follows sooner (or not at all: a stamp twice) is never seen
LAST = 2e-3  # s; a sample this near the end of the video is not taken: containers round durations to ms
FASTEST = 240  # pictures a second that a file may claim


@dataclass(frozen=True)
class VideoInfo:
    """What a video is.

    Attributes:
        path: of the file or folder.
        width: of its pictures as they are shown, pixels.
        height: of its pictures as they are shown, pixels.
        duration: of its pictures as the file says, s. A damaged file may say anything: fit for a progress bar.
        frame_rate: average, pictures a second.
        sample_rate: of its sound, Hz; None without sound.
        channels: of its sound; None without sound.
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


# Time and end of a picture, s, and what gives its (H, W, 3) uint8 RGB: most pictures of a video are never converted.
Timed = tuple[float, float, Callable[[], np.ndarray]]


class PictureSource(Protocol):
    """Where pictures come from: a file or a folder."""

    def timed(self, start: float) -> Iterator[Timed]:
        """Each picture from the one that is shown at `start` on."""


class Video:
    """A video that is open, from `open_video`; a context manager.

    Every iterator reads the file by itself, so that several may be used side by side. None holds more than a few
    pictures, whatever the video's length.

    Attributes:
        info: what the video is.
    """

    def __init__(self, info: VideoInfo, source: PictureSource, sound: Sound | None):
        self.info = info
        self._source = source
        self._sound = sound

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def has_audio(self) -> bool:
        """Whether it has sound that can be decoded."""
        return self._sound is not None

    def close(self) -> None:
        """Close the files."""
        if self._sound is not None:
            self._sound.close()

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
        """Every picture from a time on, in order.

        A stream that is damaged gives what can be decoded, then a `VideoWarning`.

        Args:
            start: s.

        Yields:
            Its time, s, and the picture, `(H, W, 3)` uint8 RGB, upright.
        """
        for time, _, picture in self._source.timed(start):
            if time >= start - CLOSE:
                yield time, picture()

    def sampled(self, fps: float = 1.0, start: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
        """The picture that is shown at each k / fps from a time on, until the video ends.

        Args:
            fps: how many a second.
            start: s.

        Yields:
            The time k / fps, s, and the picture, `(H, W, 3)` uint8 RGB, upright.

        Raises:
            ValueError: if `fps` is not positive.
        """
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: expected a positive number, got {fps}")
        k = max(0, ceil(start * fps - CLOSE))
        shown, end = None, 0.0
        for time, until, picture in self._source.timed(k / fps):
            while shown is not None and k / fps < time - CLOSE:
                yield k / fps, shown()
                k += 1
            shown, end = picture, max(until, time + 2 * LAST)
        while shown is not None and k / fps < end - LAST:
            yield k / fps, shown()
            k += 1

    def sound(self, start: float, stop: float) -> np.ndarray:
        """The sound between two times, s: `(samples,)` float32 at 16 kHz, channels averaged, zeros where there is none.

        Meant for growing times: a time more than 10 s before the last one reads the file again.

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

    Formats are told by content, not by name. Playlists and scripts that name other files are not followed.

    Args:
        path: a file, or a folder of png or jpg files (in natural order) with at most one wav.
        picture_rate: of a folder's pictures, how many a second.

    Raises:
        UserError: if it is missing, cannot be read, or no picture of it can be decoded.
    """
    path = Path(path)
    if path.is_dir():
        from avsmamba.video.folder import open_folder

        info, folder, sound = open_folder(path, picture_rate)
        return Video(info, folder, sound)
    source = _File(path)
    sound = None
    if source.sound_claimed:
        try:
            sound = Sound(path, source.origin)
        except UserError:
            warn(f"{path}: its sound cannot be decoded and is taken as silence")
    heard = (None, None) if sound is None else (sound.sample_rate, sound.channels)
    return Video(VideoInfo(path, source.width, source.height, source.duration, source.rate, *heard), source, sound)


class _File:
    """Pictures of a media file."""

    def __init__(self, path: Path):
        self.path = path
        self.rate: Fraction = Fraction(25)
        with open_container(path) as container:
            stream = self._stream(container)
            faults = Faults()
            first = next((frame for frame in decode(container, stream, faults) if frame.width and frame.height), None)
            if first is None:
                raise UserError(f"{path}: no picture of it can be decoded (no frames, or all damaged)")
            if first.width * first.height > MOST_PIXELS:
                raise UserError(f"{path}: expected at most {MOST_PIXELS} pixels, got {first.width} x {first.height}")
            self.origin = stamp(first) or Fraction(0)
            self.turn = _turn(first)
            self.stored: tuple[int, int] = (_shown_width(stream, first.width), first.height)
            width, height = self.stored
            self.width, self.height = (height, width) if self.turn[0] else (width, height)
            self.sound_claimed = bool(container.streams.audio)
            self.rate, self.duration = _rate_and_duration(container, stream)
        if not self.rate or not self.duration:
            self._scan()

    def _stream(self, container: InputContainer) -> VideoStream:
        stream = find_stream(container, "video")
        if stream is None:
            has = "only sound" if container.streams.audio else "nothing that can be decoded"
            raise UserError(f"{self.path}: has no pictures ({has}); expected a video")
        assert isinstance(stream, VideoStream)
        stream.thread_type = "AUTO"  # type: ignore[assignment]
        return stream

    def _scan(self) -> None:
        """Find what the file does not say (recordings of a browser) from its packets, without decoding them."""
        times: list[Fraction] = []
        count = 0
        with open_container(self.path) as container:
            stream = self._stream(container)
            for packet in demux(container, stream, Faults()):
                if packet.pts is not None and packet.time_base:
                    time = packet.pts * packet.time_base
                    times = [min([*times, time]), max([*times, time])]
                    count += 1
        length = times[1] - times[0] if count > 1 else Fraction(0)
        mean = Fraction(count - 1) / length if length > 0 else Fraction(25)
        self.rate = self.rate or min(max(mean, Fraction(1, 60)), Fraction(FASTEST)).limit_denominator(1001)
        self.duration = self.duration or float(length + 1 / self.rate)

    def timed(self, start: float) -> Iterator[Timed]:
        """See `PictureSource`."""
        reformatter = VideoReformatter()  # one for each iterator: it must not be used by two threads
        for time, end, frame in self._frames(start):
            yield time, end, partial(self._picture, frame, reformatter)

    def _frames(self, start: float) -> Iterator[tuple[float, float, av.VideoFrame]]:
        sought = start > 1.0
        while True:
            faults = Faults()
            held = None
            with open_container(self.path) as container:
                stream = self._stream(container)
                if sought and not seek(container, stream, start + self.origin):
                    sought = False
                    continue
                for item in self._in_order(container, stream, faults, sought):
                    if item[0] > start + CLOSE:
                        if held is None and sought:
                            break  # came out too late: from the beginning then
                        if held is not None:
                            yield held
                    held = item
                else:
                    if held is not None or not sought:
                        if held is not None:
                            yield held
                        self._warn(faults, held)
                        return
            sought = False

    def _in_order(
        self, container: InputContainer, stream: VideoStream, faults: Faults, sought: bool
    ) -> Iterator[tuple[float, float, av.VideoFrame]]:
        step, shift, last = float(1 / self.rate), 0.0, None
        for frame in decode(container, stream, faults):
            if not frame.width or not frame.height:
                continue
            at = stamp(frame)
            if at is None and last is None and sought:
                return  # a place is not known without those before it
            time = (last + step if last is not None else 0.0) if at is None else float(at - self.origin) + shift
            if last is not None and not last - 1.0 < time < last + LONGEST_GAP:
                faults.jumps += 1
                shift += last + step - time
                time = last + step
            if last is not None and time < last + CLOSEST:
                continue
            last = time
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step
            yield time, time + (length if 0 < length < LONGEST_GAP else step), frame

    def _warn(self, faults: Faults, last: tuple[float, float, av.VideoFrame] | None) -> None:
        if last is not None and last[1] + 0.5 < self.duration and not faults.jumps:
            faults.cut = True
        faults.warn(self.path, "pictures")

    def _picture(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        convert = partial(reformatter.reformat, frame, *self.stored, "rgb24", threads=1)
        try:
            rgb = convert().to_ndarray()
        except av.FFmpegError:
            try:  # colours that are marked as what does not exist
                usual = partial(convert, src_colorspace=Colorspace.ITU601, src_color_range=ColorRange.MPEG)
                rgb = usual(dst_colorspace=Colorspace.ITU601).to_ndarray()
            except av.FFmpegError:
                raise UserError(f"{self.path}: its pictures ({frame.format.name}) cannot be made RGB") from None
        across, flip_x, flip_y = self.turn
        if across:
            rgb = rgb.transpose(1, 0, 2)
        if flip_x:
            rgb = rgb[:, ::-1]
        if flip_y:
            rgb = rgb[::-1]
        return np.ascontiguousarray(rgb)


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to make a picture upright: whether to swap its axes, then to mirror x, then to mirror y.

    The display matrix maps (x, y) to (a x + c y, b x + d y); turns that are no quarter turns are taken as the nearest.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    data = b"" if side_data is None else bytes(side_data)
    if len(data) < 36:
        return False, False, False
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _shown_width(stream: VideoStream, width: int) -> int:
    """The width with square pixels."""
    ratio = stream.sample_aspect_ratio
    return max(1, round(width * ratio)) if ratio and Fraction(1, 4) <= ratio <= 4 else width


def _rate_and_duration(container: InputContainer, stream: VideoStream) -> tuple[Fraction, float]:
    """What the file says; 0 where it says nothing that can be."""
    rate = next((r for r in (stream.average_rate, stream.guessed_rate) if r and 0 < r <= FASTEST), Fraction(0))
    if stream.duration and stream.time_base:
        return rate, max(0.0, float(stream.duration * stream.time_base))
    # Matroska keeps the length of a stream as text; that of the file may be of a longer sound.
    text = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = text.split(":")
        return rate, int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return rate, max(0.0, (container.duration or 0) / av.time_base)
