"""Open untrusted media files and decode them past their faults; used for pictures and sound."""

import heapq
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from avsmamba.utils import UserError

# Without playlists and scripts (hls, concat, ...), through which an untrusted file could have other files or addresses
# read, and without text and raw formats, which match nearly any file.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,gif,apng,"
    "wav,w64,aiff,au,caf,mp3,flac,aac,ac3,eac3,amr"
)
MAX_GAP = 600.0  # s; a time stamp further from the last one is treated as damaged
MAX_PIXELS = 1 << 26
MAX_BUFFERED = 48  # pictures in a decoder: 16 to be reordered, 16 threads, and a reserve
TOLERANCE = 1e-6  # s; times that differ by less are equal
Frame = Any  # av.VideoFrame or av.AudioFrame, by the type of the stream
# Start and end of a picture, s, and a function that converts it to (H, W, 3) uint8 RGB: most pictures are never needed.
TimedPicture = tuple[float, float, Callable[[], np.ndarray]]


class VideoWarning(UserWarning):
    """A fault in a file that did not stop the reader."""


@dataclass
class Faults:
    """Counts of the faults found while a stream was decoded."""

    packets: int = 0
    jumps: int = 0
    cut: bool = False

    def warn(self, path: Path, what: str) -> None:
        """Warn once about all faults, if there are any."""
        parts = []
        if self.packets:
            parts.append(f"{self.packets} damaged packets skipped")
        if self.jumps:
            parts.append(f"{self.jumps} impossible time stamps replaced")
        if self.cut:
            parts.append("the file is cut short")
        if parts:
            warn(f"{path}: damaged {what}: {', '.join(parts)}")


def warn(text: str) -> None:
    """Issue a `VideoWarning`."""
    warnings.warn(text, VideoWarning, stacklevel=3)


def open_container(path: Path, expected: str = "a video") -> InputContainer:
    """Open a media file for reading.

    Raises:
        UserError: if it is missing, not a regular file, empty, not permitted, or of an unsupported format.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: expected {expected}, got {_kind(status.st_mode)}")
        if not os.access(path, os.R_OK):
            raise UserError(f"{path}: cannot be read: permission denied")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {expected}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not status.st_size:
        raise UserError(f"{path}: is empty; expected {expected}")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        # 'file:' because a name may look like an address
        return av.open(f"file:{path.absolute()}", "r", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, LookupError):
        raise UserError(f"{path}: cannot be read as {expected} (cut short, damaged or of another format)") from None


def find_stream(container: InputContainer, kind: Literal["video", "audio"]) -> Stream | None:
    """Return the decodable stream that a player would choose, None without one; cover pictures are ignored."""
    streams = [
        stream
        for stream in getattr(container.streams, kind)
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    best = container.streams.best(kind)
    found = next((stream for stream in streams if best is not None and stream.index == best.index), None)
    return found or (streams[0] if streams else None)


def demux(container: InputContainer, stream: Stream, faults: Faults) -> Iterator[av.Packet]:
    """Yield the packets of one stream from the current position, and an empty one at the end."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except LookupError:  # a stream that appeared later, which PyAV does not know
            packets = container.demux(stream)
            continue
        except (av.FFmpegError, ValueError):
            faults.cut = True
            return
        if packet is None:
            return
        yield packet


def decode(container: InputContainer, stream: Stream, faults: Faults) -> Iterator[Frame]:
    """Yield the decoded frames of one stream from the current position; damaged packets are skipped and counted."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    # AVI's time stamps are in decoding order: assign them to the pictures in ascending order.
    ticks_heap: list[int] | None = [] if container.format.name == "avi" and stream.type == "video" else None
    for packet in demux(container, stream, faults):
        try:
            frames: Any = packet.decode()
        except (av.FFmpegError, ValueError):
            faults.packets += 1
            continue
        if ticks_heap is not None and packet.size:
            ticks = packet.pts if packet.pts is not None else packet.dts
            if ticks is not None:
                heapq.heappush(ticks_heap, ticks)
            if len(ticks_heap) > MAX_BUFFERED:
                heapq.heappop(ticks_heap)  # of a packet without a picture
        for frame in frames:
            if ticks_heap:
                frame.pts = heapq.heappop(ticks_heap)
            yield frame


def timestamp(frame: Frame) -> Fraction | None:
    """Return the time of a frame on the clock of its file, s; None if it has none."""
    ticks = frame.pts if frame.pts is not None else frame.dts
    return None if ticks is None or not frame.time_base else ticks * frame.time_base


def seek(container: InputContainer, stream: Stream, seconds: Fraction | float) -> bool:
    """Seek to the last key frame before a time on the file's clock, s; return False if the file cannot seek."""
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream)
    except (av.FFmpegError, OverflowError):
        return False
    return True


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "something that is not a regular file"
