"""Decode audio to 16 kHz mono, aligned to presentation timestamps."""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np

from avsmamba.utils import UserError
from avsmamba.video.container import MAX_GAP, Faults, decode, find_stream, open_container, seek, timestamp

SAMPLE_RATE = 16_000  # Hz, of the models' input
BUFFERED = 10.0  # s of sound kept before the last request
MAX_SKIP = 30.0  # s; a request further ahead seeks
MAX_DRIFT = 0.03  # s between time stamp and sample count: containers round to ms, codecs to packets
RATES = (1_000, 768_000)  # Hz; a frame of another rate is damaged
BEFORE_ALL = -(1 << 62)  # a sample index before any other
MAX_AMPLITUDE = 16.0  # of float samples; greater ones are damaged
Block = tuple[int, np.ndarray]  # index of the first sample, `(channels, samples)` float32


class Sound(AbstractContextManager["Sound", None]):
    """The sound of a file at 16 kHz, mono; buffers a few seconds; a context manager.

    Args:
        path: the file.
        origin: the time on the file's clock, s, that becomes 0; None is the start of the sound.

    Attributes:
        path: of the file.
        sample_rate: in the file, Hz.
        channels: in the file.
        duration: by the file's header, s, or None.

    Raises:
        UserError: if the file is missing, cannot be read, or has no sound that can be decoded.
    """

    def __init__(self, path: Path, origin: Fraction | None = None):
        self.path = Path(path)
        with open_container(self.path, "a sound") as container:
            stream = find_stream(container, "audio")
            if stream is None:
                raise UserError(f"{path}: has no sound that can be decoded")
            first = next((frame for frame in decode(container, stream, Faults()) if _usable(frame)), None)
            if first is None:
                raise UserError(f"{path}: has no sound that can be decoded")
            self.sample_rate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
            self.start = timestamp(first) or Fraction(0)
            ticks = stream.duration
            self.duration = None if ticks is None or not stream.time_base else float(ticks * stream.time_base)
            if self.duration is None and container.duration:
                self.duration = container.duration / av.time_base
            self._seekable = any(name in container.format.name for name in ("mp4", "matroska"))
        self.origin = self.start if origin is None else origin
        self._blocks: Iterator[Block] | None = None
        self._buffer: deque[Block] = deque()
        self._buffer_start = self._buffer_end = BEFORE_ALL
        self._warned = False

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._blocks is not None:
            self._blocks.close()  # type: ignore[attr-defined]
        self._blocks = None
        self._buffer.clear()
        self._buffer_start = self._buffer_end = BEFORE_ALL

    def read(self, start: float, stop: float) -> np.ndarray:
        """Return the sound between two times, s: `(samples,)` float32 at 16 kHz, mean of the channels, zeros in gaps.

        Times should ascend: one more than 10 s before the last request reads the file again.

        Raises:
            ValueError: if the times are not in order.
        """
        if not 0 <= stop - start < float("inf"):
            raise ValueError(f"stop: expected at least start = {start}, got {stop}")
        first, last = round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE)
        far = self._seekable and first > self._buffer_end + MAX_SKIP * SAMPLE_RATE
        if self._blocks is None or first < self._buffer_start or far:
            self._restart(first)
        while self._buffer_end < last and self._pull():
            self._drop_before(first - int(BUFFERED * SAMPLE_RATE))
        result = np.zeros(last - first, np.float32)
        for at, wave in self._buffer:
            begin, end = max(at, first), min(at + len(wave), last)
            if begin < end:
                result[begin - first : end - first] = wave[begin - at : end - at]
        self._drop_before(first - int(BUFFERED * SAMPLE_RATE))
        return result

    def _drop_before(self, index: int) -> None:
        while self._buffer and self._buffer[0][0] + len(self._buffer[0][1]) <= index:
            at, wave = self._buffer.popleft()
            self._buffer_start = at + len(wave)

    def _restart(self, first: int) -> None:
        self.close()
        start = first / SAMPLE_RATE - 1.0  # a decoder needs a second to settle
        if self._seekable and start > 0:
            self._open(start)
            if self._pull() and self._buffer[0][0] <= first:
                self._buffer_start = self._buffer[0][0]
                return
            self._seekable = False
            self.close()
        self._open(None)

    def _open(self, start: float | None) -> None:
        faults = Faults()
        self._blocks = self._mono(sound_blocks(self.path, self.origin, SAMPLE_RATE, 1, start, faults), faults)

    def _mono(self, blocks: Iterator[Block], faults: Faults) -> Iterator[Block]:
        """Yield the only channel of each block, `(samples,)`; warn about faults once, at the end."""
        for at, wave in blocks:
            yield at, wave[0]
        if not self._warned:
            faults.warn(self.path, "sound")
            self._warned = True

    def _pull(self) -> bool:
        """Read one more block; return False at the end."""
        assert self._blocks is not None
        block = next(self._blocks, None)
        if block is None:
            self._buffer_end = -BEFORE_ALL
            return False
        self._buffer.append(block)
        self._buffer_end = block[0] + len(block[1])
        return True


def open_sound(path: str | Path) -> Sound:
    """Open the sound of a video, with time 0 at its first picture, or of a sound file.

    Raises:
        UserError: if the file is missing, cannot be read, or has no sound that can be decoded.
    """
    path = Path(path)
    with open_container(path, "a sound or a video with sound") as container:
        stream = find_stream(container, "video")
        first = None if stream is None else next(decode(container, stream, Faults()), None)
    return Sound(path, None if first is None else timestamp(first))


def sound_blocks(
    path: Path, origin: Fraction, rate: int, channels: int, start: float | None, faults: Faults
) -> Iterator[Block]:
    """Decode a file's sound in blocks, placed by time stamps.

    Args:
        path: the file.
        origin: the time on the file's clock, s, that becomes 0.
        rate: to resample to, Hz.
        channels: 1 (the mean of all) or 2.
        start: where to begin, s; the first block may begin before or after it. None is the start of the file.
        faults: counts the faults.

    Yields:
        Index of the first sample at `rate`, negative before the origin, and `(channels, samples)` float32. Blocks never
        overlap; a gap between two has no sound.
    """
    end = BEFORE_ALL
    for at, wave in _overlapping_blocks(path, origin, rate, channels, start, faults):
        cut = max(0, end - at)
        if cut < wave.shape[1]:
            yield at + cut, wave[:, cut:]
            end = at + wave.shape[1]


def _overlapping_blocks(
    path: Path, origin: Fraction, rate: int, channels: int, start: float | None, faults: Faults
) -> Iterator[Block]:
    with open_container(path, "a sound") as container:
        stream = find_stream(container, "audio")
        if stream is None or (start is not None and not seek(container, stream, start + origin)):
            return
        resampler: _Resampler | None = None
        for frame in decode(container, stream, faults):
            if not _usable(frame):
                continue
            time = timestamp(frame)
            place = None if time is None else float(time - origin) * rate
            restart = resampler is None or int(frame.sample_rate) != resampler.source_rate
            if resampler is not None and place is not None:
                drift = abs(place - resampler.expected)
                if drift > MAX_GAP * rate:
                    faults.jumps += 1
                    place = resampler.expected
                elif drift > MAX_DRIFT * rate:
                    restart = True
            if restart:
                if resampler is not None:
                    yield from resampler.feed(None)
                    place = resampler.expected if place is None else place
                resampler = _Resampler(int(frame.sample_rate), rate, channels, round(place or 0.0))
            assert resampler is not None
            try:
                blocks = resampler.feed(to_channels(pack(frame), channels))
            except (av.FFmpegError, ValueError):  # impossible channels or samples
                faults.packets += 1
            else:
                yield from blocks
        if resampler is not None:
            yield from resampler.feed(None)


def pack(frame: av.AudioFrame) -> av.AudioFrame:
    """Interleave eight or more planes: PyAV 18 reads past the list of planes and crashes."""
    if not frame.format.is_planar or frame.layout.nb_channels < 8:
        return frame
    packer = av.AudioResampler(format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate)
    return packer.resample(frame)[0]


def to_channels(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """Return a frame as `(channels, samples)` float32: the mean of all channels, or a stereo mix by their names."""
    name, count = frame.format.name, frame.layout.nb_channels
    values: np.ndarray = frame.to_ndarray()
    values = values if frame.format.is_planar else values.reshape(-1, count).T
    kind = name.removesuffix("p")
    if kind in ("flt", "dbl"):
        # clip before the cast: a double may exceed float32
        wave = np.clip(np.nan_to_num(values), -MAX_AMPLITUDE, MAX_AMPLITUDE).astype(np.float32)
    elif kind == "u8":
        wave = (values.astype(np.float32) - 128) / 128
    else:
        wave = values.astype(np.float32) / float(1 << (8 * values.itemsize - 1))
    if channels == 1:
        return wave.mean(axis=0, keepdims=True)
    if count <= 2:
        return np.repeat(wave, 2, axis=0) if count == 1 else wave
    sides = np.array([_sides(channel.name) for channel in frame.layout.channels], np.float32).T
    weight = sides.sum(axis=1, keepdims=True)
    return (sides / np.maximum(weight, 1e-6)) @ wave


def _sides(name: str) -> tuple[float, float]:
    """Return the gains of a channel on the left and on the right."""
    if name.startswith("LFE"):
        return 0.0, 0.0
    surround = 1.0 if name in ("FL", "FR") else 0.7071
    return {"L": (surround, 0.0), "R": (0.0, surround)}.get(name[-1:], (0.7071, 0.7071))


def _usable(frame: av.AudioFrame) -> bool:
    return frame.samples > 0 and RATES[0] <= frame.sample_rate <= RATES[1] and frame.layout.nb_channels > 0


class _Resampler:
    """Resampler of one section of sound without gaps; computes the index of each output block."""

    def __init__(self, source_rate: int, rate: int, channels: int, place: int):
        self.source_rate, self.rate = source_rate, rate
        self.layout = "mono" if channels == 1 else "stereo"
        self.resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=rate)
        self.begin = self.place = place
        self.count = 0  # samples fed

    @property
    def expected(self) -> float:
        """The index of the next sample that is fed, at `rate`."""
        return self.begin + self.count * self.rate / self.source_rate

    def feed(self, wave: np.ndarray | None) -> list[Block]:
        """Resample `(channels, samples)`, or flush with None."""
        frame = None
        if wave is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.source_rate, self.count, Fraction(1, self.source_rate)
            self.count += wave.shape[1]
        elif self.source_rate == self.rate:
            return []
        result = []
        for out in self.resampler.resample(frame):
            if out is None:
                continue
            samples = out.to_ndarray()
            if wave is None:  # without the filter's delay past the last sample
                samples = samples[:, : max(0, ceil(self.expected) - self.place)]
            if samples.shape[1]:
                result.append((self.place, samples))
                self.place += samples.shape[1]
        return result
