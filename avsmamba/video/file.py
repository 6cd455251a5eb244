"""Pictures of a media file: times, rotation and colours."""

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from avsmamba.utils import UserError
from avsmamba.video.container import (
    MAX_GAP,
    MAX_PIXELS,
    TOLERANCE,
    Faults,
    TimedPicture,
    decode,
    demux,
    find_stream,
    open_container,
    seek,
    timestamp,
)

MIN_STEP = 1e-4  # s between pictures; one that follows sooner is never visible
MAX_RATE = 240  # pictures per second in a file's header
DecodedPicture = tuple[float, float, av.VideoFrame]  # start and end, s


class VideoFile:
    """`PictureSource` of a media file: pictures upright and with square pixels.

    Attributes:
        origin: time of the first picture on the file's clock, s.
        has_sound_stream: whether the file has sound, decodable or not.

    Raises:
        UserError: if no picture can be decoded, or they are too large.
    """

    def __init__(self, path: Path):
        self.path = path
        self.frame_rate = Fraction(25)
        with open_container(path) as container:
            stream = self._stream(container)
            faults = Faults()
            first = next((frame for frame in decode(container, stream, faults) if frame.width and frame.height), None)
            if first is None:
                raise UserError(f"{path}: none of its pictures can be decoded (no frames, or all damaged)")
            if first.width * first.height > MAX_PIXELS:
                raise UserError(f"{path}: expected at most {MAX_PIXELS} pixels, got {first.width} x {first.height}")
            self.origin = timestamp(first) or Fraction(0)
            self.transpose, self.flip_x, self.flip_y = _orientation(first)
            self.stored: tuple[int, int] = (_square_width(stream, first.width), first.height)
            self.width, self.height = self.stored[::-1] if self.transpose else self.stored
            self.has_sound_stream = bool(container.streams.audio)
            self.frame_rate, self.duration = _rate_and_duration(container, stream)
        if not self.frame_rate or not self.duration:
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
        """Find frame rate and duration from the packets, if the header lacks them (recordings of a browser)."""
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
        self.frame_rate = self.frame_rate or min(max(mean, Fraction(1, 60)), Fraction(MAX_RATE)).limit_denominator(1001)
        self.duration = self.duration or float(length + 1 / self.frame_rate)

    def timed(self, start: float) -> Iterator[TimedPicture]:
        """See `PictureSource`."""
        reformatter = VideoReformatter()  # one per iterator: it is not thread-safe
        for time, end, frame in self._frames(start):
            yield time, end, partial(self._picture, frame, reformatter)

    def _frames(self, start: float) -> Iterator[DecodedPicture]:
        sought = start > 1.0
        while True:
            faults = Faults()
            current: DecodedPicture | None = None  # the last picture that begins before `start`
            with open_container(self.path) as container:
                stream = self._stream(container)
                if sought and not seek(container, stream, start + self.origin):
                    sought = False
                    continue
                for item in self._in_order(container, stream, faults, sought):
                    if item[0] > start + TOLERANCE:
                        if current is None and sought:
                            break  # sought too far: begin at the start of the file
                        if current is not None:
                            yield current
                    current = item
                else:
                    if current is not None or not sought:
                        if current is not None:
                            yield current
                        self._warn(faults, current)
                        return
            sought = False

    def _in_order(
        self, container: InputContainer, stream: VideoStream, faults: Faults, sought: bool
    ) -> Iterator[DecodedPicture]:
        step, shift, last = float(1 / self.frame_rate), 0.0, None
        for frame in decode(container, stream, faults):
            if not frame.width or not frame.height:
                continue
            at = timestamp(frame)
            if at is None and last is None and sought:
                return  # its time is unknown without the pictures before it
            time = (last + step if last is not None else 0.0) if at is None else float(at - self.origin) + shift
            if last is not None and not last - 1.0 < time < last + MAX_GAP:
                faults.jumps += 1
                shift += last + step - time
                time = last + step
            if last is not None and time < last + MIN_STEP:
                continue
            last = time
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step
            yield time, time + (length if 0 < length < MAX_GAP else step), frame

    def _warn(self, faults: Faults, last: DecodedPicture | None) -> None:
        if last is not None and last[1] + 0.5 < self.duration and not faults.jumps:
            faults.cut = True
        faults.warn(self.path, "pictures")

    def _picture(self, frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        convert = partial(reformatter.reformat, frame, *self.stored, "rgb24", threads=1)
        try:
            rgb = convert().to_ndarray()
        except av.FFmpegError:
            try:  # unknown colour properties
                default = partial(convert, src_colorspace=Colorspace.ITU601, src_color_range=ColorRange.MPEG)
                rgb = default(dst_colorspace=Colorspace.ITU601).to_ndarray()
            except av.FFmpegError:
                raise UserError(f"{self.path}: its pictures ({frame.format.name}) cannot be converted to RGB") from None
        rgb = rgb.transpose(1, 0, 2) if self.transpose else rgb
        return np.ascontiguousarray(rgb[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether to swap the axes of a picture, then to flip x, then to flip y, to have it upright.

    The display matrix maps (x, y) to (a x + c y, b x + d y); rotations are rounded to multiples of 90 degrees.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    data = b"" if side_data is None else bytes(side_data)
    if len(data) < 36:
        return False, False, False
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _square_width(stream: VideoStream, width: int) -> int:
    """Return the width for square pixels."""
    ratio = stream.sample_aspect_ratio
    return max(1, round(width * ratio)) if ratio and Fraction(1, 4) <= ratio <= 4 else width


def _rate_and_duration(container: InputContainer, stream: VideoStream) -> tuple[Fraction, float]:
    """Return frame rate and duration, s, from the header; 0 if missing or impossible."""
    rate = next((r for r in (stream.average_rate, stream.guessed_rate) if r and 0 < r <= MAX_RATE), Fraction(0))
    if stream.duration and stream.time_base:
        return rate, max(0.0, float(stream.duration * stream.time_base))
    # Matroska stores the duration of a stream as text; that of the file may be of a longer sound.
    text = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = text.split(":")
        return rate, int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return rate, max(0.0, (container.duration or 0) / av.time_base)
