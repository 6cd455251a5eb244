"""What reading pictures and reading sound share: opening a file without trusting it, and decoding past its faults."""

import heapq
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from avsmamba.utils import UserError

# Playlists and scripts (hls, concat, ...) name other files and addresses: a file from elsewhere must not choose what
# is read. Formats of text and of raw samples claim nearly any file.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,gif,apng,"
    "wav,w64,aiff,au,caf,mp3,flac,aac,ac3,eac3,amr"
)
LONGEST_GAP = 600.0  # s; a time stamp further from the last one is taken as damaged
MOST_PIXELS = 1 << 26
MOST_HELD = 48  # pictures that a decoder may hold: 16 to be shown later, 16 threads, and some
Frame = Any  # av.VideoFrame or av.AudioFrame, as the stream says


class VideoWarning(UserWarning):
    """A fault in a file that did not stop its reading."""


@dataclass
class Faults:
    """What went wrong while a stream was decoded."""

    packets: int = 0
    jumps: int = 0
    cut: bool = False

    def warn(self, path: Path, what: str) -> None:
        """One warning that says all, if there is anything to say."""
        parts = []
        if self.packets:
            parts.append(f"{self.packets} damaged packets left out")
        if self.jumps:
            parts.append(f"{self.jumps} impossible time stamps replaced")
        if self.cut:
            parts.append("the file ends before its time")
        if parts:
            warn(f"{path}: damaged {what}: {', '.join(parts)}")


def warn(text: str) -> None:
    """Warn of a fault in a file."""
    warnings.warn(text, VideoWarning, stacklevel=3)


def open_container(path: Path, expected: str = "a video") -> InputContainer:
    """Open a media file for reading.

    Raises:
        UserError: if it is missing, no file, empty, not allowed, or none of the formats that are read.
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
        # 'file:' since a name may look like an address
        return av.open(f"file:{path.absolute()}", "r", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, LookupError):
        raise UserError(f"{path}: cannot be read as {expected} (cut short, damaged or of another format)") from None


def find_stream(container: InputContainer, kind: Literal["video", "audio"]) -> Stream | None:
    """The stream of a kind, 'video' or 'audio', that a player would choose and that can be decoded; covers are none."""
    streams = [
        stream
        for stream in getattr(container.streams, kind)
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    best = container.streams.best(kind)
    found = next((stream for stream in streams if best is not None and stream.index == best.index), None)
    return found or (streams[0] if streams else None)


def demux(container: InputContainer, stream: Stream, faults: Faults) -> Iterator[av.Packet]:
    """The packets of one stream from where the container stands, and an empty one at the end."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except LookupError:  # a stream that was not there at the beginning, which PyAV does not know
            packets = container.demux(stream)
            continue
        except (av.FFmpegError, ValueError):
            faults.cut = True
            return
        if packet is None:
            return
        yield packet


def decode(container: InputContainer, stream: Stream, faults: Faults) -> Iterator[Frame]:
    """Decode one stream from where the container stands; what cannot be decoded is left out and counted."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    # AVI numbers pictures as they are stored, not as they are shown: shown in turn, they take the numbers in turn.
    in_order: list[int] | None = [] if container.format.name == "avi" and stream.type == "video" else None
    for packet in demux(container, stream, faults):
        try:
            frames: Any = packet.decode()
        except (av.FFmpegError, ValueError):
            faults.packets += 1
            continue
        if in_order is not None and packet.size:
            ticks = packet.pts if packet.pts is not None else packet.dts
            if ticks is not None:
                heapq.heappush(in_order, ticks)
            if len(in_order) > MOST_HELD:
                heapq.heappop(in_order)  # of a packet that gave no picture
        for frame in frames:
            if in_order:
                frame.pts = heapq.heappop(in_order)
            yield frame


def stamp(frame: Frame) -> Fraction | None:
    """The time of a frame on its file's own clock, s."""
    ticks = frame.pts if frame.pts is not None else frame.dts
    return None if ticks is None or not frame.time_base else ticks * frame.time_base


def seek(container: InputContainer, stream: Stream, seconds: Fraction | float) -> bool:
    """Go to the last point before a time of the file's clock from which a stream can be decoded; False if it cannot."""
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream)
    except (av.FFmpegError, OverflowError):
        return False
    return True


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "something that is no regular file"
