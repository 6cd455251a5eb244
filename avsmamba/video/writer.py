"""Write pictures as H.264 that browsers play."""

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from avsmamba.utils import UserError, atomic_write

TICKS = 90_000  # per second: a multiple of all usual frame rates
BT709, LIMITED = 1, 1  # H.264's codes of colour space and range


class VideoWriter:
    """Writer of an mp4 of pictures, without sound; a context manager that leaves a complete, playable file or none.

    The file appears under its name when the block ends; after an error in the block, or without a picture, it does not.

    Args:
        path: of the file, ending in .mp4.
        width: of the pictures, pixels. An odd one is padded by a repeated column: yuv420p requires even sizes.
        height: of the pictures, pixels; padded like the width.
        frame_rate: nominal, pictures per second; time stamps are passed to `write`.
    """

    def __init__(self, path: str | Path, width: int, height: int, frame_rate: Fraction | float = 25):
        if width < 1 or height < 1:
            raise ValueError(f"width, height: expected at least 1, got {width} x {height}")
        self.path = Path(path)
        self.width, self.height = width, height
        self.rate = Fraction(min(max(frame_rate, Fraction(1, 60)), 240)).limit_denominator(1001)
        self.count = 0
        self._last: int | None = None
        self._reformatter = VideoReformatter()
        self._stack = ExitStack()

    def __enter__(self) -> "VideoWriter":
        try:
            temporary = self._stack.enter_context(atomic_write(self.path))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._container = av.open(str(temporary.absolute()), "w", format="mp4", options={"movflags": "+faststart"})
        # No B-frames: packets are in the order of their times, as `join` interleaves them with the sound.
        options = {"preset": "veryfast", "crf": "20"}
        stream = self._container.add_stream("libx264", rate=self.rate, options=options)
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.max_b_frames = 0
        context.gop_size = min(max(round(2 * self.rate), 10), 250)
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        self._stream = stream
        return self

    def write(self, rgb: np.ndarray, time: float) -> None:
        """Write one picture.

        Args:
            rgb: `(H, W, 3)` uint8.
            time: s, later than that of the previous picture.

        Raises:
            ValueError: if the shape, the dtype or the time is invalid.
        """
        if rgb.shape != (self.height, self.width, 3) or rgb.dtype != np.uint8:
            raise ValueError(f"rgb: expected ({self.height}, {self.width}, 3) uint8, got {rgb.shape} {rgb.dtype}")
        ticks = round(time * TICKS)
        if ticks < 0 or (self._last is not None and ticks <= self._last):
            raise ValueError(f"time: expected one after {(self._last or 0) / TICKS} s, got {time}")
        if self.width % 2 or self.height % 2:
            rgb = np.pad(rgb, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = self._reformatter.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        self._mux(frame)
        self._last = ticks
        self.count += 1

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = round(TICKS / self.rate)  # used for the last one only
            self._container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep = self.count > 0 and kind is None
        try:
            if keep:
                self._mux(None)
            self._container.close()
        except BaseException as fault:
            self._stack.__exit__(type(fault), fault, fault.__traceback__)
            if isinstance(fault, (av.FFmpegError, OSError)) and kind is None:
                raise UserError(f"{self.path}: cannot be written: {getattr(fault, 'strerror', fault)}") from None
            raise
        if keep:
            self._stack.close()
        else:  # atomic_write removes its file after any error
            self._stack.__exit__(type(error or _NOTHING), error or _NOTHING, trace)


_NOTHING = RuntimeError("nothing was written")
