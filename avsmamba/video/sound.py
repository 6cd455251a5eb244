"""Sound by time stamps: any rate and any channels become what the model hears, in the place where a player plays it."""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from avsmamba.utils import UserError
from avsmamba.video.container import LONGEST_GAP, Faults, decode, find_stream, open_container, seek, stamp

SAMPLE_RATE = 16_000  # Hz, of what the model hears
KEPT = 10.0  # s of sound kept behind the last request
FAR = 30.0  # s; a request further ahead seeks
TOLERANCE = 0.03  # s that a time stamp may be off before the sound is moved: containers round to ms, codecs to packets
RATES = (1_000, 768_000)  # Hz, of what is taken as sound
BEFORE_ALL = -(1 << 62)  # a place of samples
LOUDEST = 16.0  # of float samples; what exceeds it is damage


class Sound:
    """The sound of a file at 16 kHz, mono, a few seconds at a time; a context manager.

    Args:
        path: the file.
        origin: the time on the file's clock, s, that is 0 here; None is the sound's own start.

    Attributes:
        path: of the file.
        sample_rate: of the file's sound, Hz.
        channels: of the file's sound.
        duration: of the file's sound as the file says, s; None if it does not.

    Raises:
        UserError: if the file is missing, none that can be read, or without sound that can be decoded.
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
            self.start = stamp(first) or Fraction(0)
            ticks = stream.duration
            self.duration = None if ticks is None or not stream.time_base else float(ticks * stream.time_base)
            if self.duration is None and container.duration:
                self.duration = container.duration / av.time_base
            self._seekable = any(name in container.format.name for name in ("mp4", "matroska"))
        self.origin = self.start if origin is None else origin
        self._blocks: Iterator[tuple[int, np.ndarray]] | None = None
        self._held: deque[tuple[int, np.ndarray]] = deque()
        self._complete_from = self._known_until = BEFORE_ALL
        self._warned = False

    def __enter__(self) -> "Sound":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._blocks is not None:
            self._blocks.close()  # type: ignore[attr-defined]
        self._blocks = None
        self._held.clear()
        self._complete_from = self._known_until = BEFORE_ALL

    def read(self, start: float, stop: float) -> np.ndarray:
        """The sound between two times, s: `(samples,)` float32 at 16 kHz, channels averaged, zeros where there is none.

        Meant for growing times: a time more than 10 s before the last one reads the file again.

        Raises:
            ValueError: if the times are not in order.
        """
        if not 0 <= stop - start < float("inf"):
            raise ValueError(f"stop: expected at least start = {start}, got {stop}")
        first, last = round(start * SAMPLE_RATE), round(stop * SAMPLE_RATE)
        far = self._seekable and first > self._known_until + FAR * SAMPLE_RATE
        if self._blocks is None or first < self._complete_from or far:
            self._restart(first)
        while self._known_until < last and self._pull():
            self._drop_before(first - int(KEPT * SAMPLE_RATE))
        result = np.zeros(last - first, np.float32)
        for at, wave in self._held:
            begin, end = max(at, first), min(at + len(wave), last)
            if begin < end:
                result[begin - first : end - first] = wave[begin - at : end - at]
        self._drop_before(first - int(KEPT * SAMPLE_RATE))
        return result

    def _drop_before(self, place: int) -> None:
        while self._held and self._held[0][0] + len(self._held[0][1]) <= place:
            at, wave = self._held.popleft()
            self._complete_from = at + len(wave)

    def _restart(self, first: int) -> None:
        self.close()
        start = first / SAMPLE_RATE - 1.0  # a decoder needs a little before it is right
        if self._seekable and start > 0:
            self._open(start)
            if self._pull() and self._held[0][0] <= first:
                self._complete_from = self._held[0][0]
                return
            self._seekable = False
            self.close()
        self._open(None)

    def _open(self, start: float | None) -> None:
        faults = Faults()
        self._blocks = self._watched(sound_blocks(self.path, self.origin, SAMPLE_RATE, 1, start, faults), faults)

    def _watched(self, blocks: Iterator[tuple[int, np.ndarray]], faults: Faults) -> Iterator[tuple[int, np.ndarray]]:
        for at, wave in blocks:
            yield at, wave[0]
        if not self._warned:
            faults.warn(self.path, "sound")
            self._warned = True

    def _pull(self) -> bool:
        """Read one block more; False at the end."""
        assert self._blocks is not None
        block = next(self._blocks, None)
        if block is None:
            self._known_until = -BEFORE_ALL
            return False
        self._held.append(block)
        self._known_until = block[0] + len(block[1])
        return True


def open_sound(path: str | Path) -> Sound:
    """The sound of a video (its time 0 is the first picture) or of a sound file, as a context manager.

    Raises:
        UserError: if the file is missing, none that can be read, or without sound that can be decoded.
    """
    path = Path(path)
    with open_container(path, "a sound or a video with sound") as container:
        stream = find_stream(container, "video")
        first = None if stream is None else next(decode(container, stream, Faults()), None)
    return Sound(path, None if first is None else stamp(first))


def sound_blocks(
    path: Path, origin: Fraction, rate: int, channels: int, start: float | None, faults: Faults
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a file's sound in blocks, placed by time stamps.

    Args:
        path: the file.
        origin: the time on the file's clock, s, that is 0 here.
        rate: what to resample to, Hz.
        channels: 1 (the average of all) or 2.
        start: where to begin, s; the first block may come from before or after it. None is the beginning.
        faults: takes what went wrong.

    Yields:
        The place of the first sample (of `rate`; below 0 is before the origin) and `(channels, samples)` float32.
        Blocks never overlap; where one does not follow on the last, there is no sound between them.
    """
    with open_container(path, "a sound") as container:
        stream = find_stream(container, "audio")
        if stream is None or (start is not None and not seek(container, stream, start + origin)):
            return
        done = BEFORE_ALL
        resampler: _Resampler | None = None
        for frame in decode(container, stream, faults):
            if not _usable(frame):
                continue
            time = stamp(frame)
            place = None if time is None else float(time - origin) * rate
            waves: list[tuple[int, np.ndarray]] = []
            moved = resampler is None or int(frame.sample_rate) != resampler.source_rate
            if resampler is not None and place is not None:
                off = abs(place - resampler.expected)
                if off > LONGEST_GAP * rate:
                    faults.jumps += 1
                    place = resampler.expected
                elif off > TOLERANCE * rate:
                    moved = True
            if moved:
                if resampler is not None:
                    waves += resampler.feed(None)
                    place = resampler.expected if place is None else place
                resampler = _Resampler(int(frame.sample_rate), rate, channels, round(place or 0.0))
            assert resampler is not None
            try:
                waves += resampler.feed(mix(pack(frame), channels))
            except (av.FFmpegError, ValueError):  # channels or samples of a kind that cannot be
                faults.packets += 1
            for at, wave in waves:
                cut = max(0, done - at)
                if cut < wave.shape[1]:
                    yield at + cut, wave[:, cut:]
                    done = at + wave.shape[1]
        for at, wave in resampler.feed(None) if resampler is not None else ():
            cut = max(0, done - at)
            if cut < wave.shape[1]:
                yield at + cut, wave[:, cut:]


def pack(frame: av.AudioFrame) -> av.AudioFrame:
    """Planes made one where there are eight or more: PyAV 18 reads past the list of them and crashes."""
    if not frame.format.is_planar or frame.layout.nb_channels < 8:
        return frame
    packer = av.AudioResampler(format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate)
    return packer.resample(frame)[0]


def mix(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """A decoded frame as `(channels, samples)` float32: all averaged to 1, or laid out on 2 by their names."""
    name, count = frame.format.name, frame.layout.nb_channels
    values: np.ndarray = frame.to_ndarray()
    values = values if frame.format.is_planar else values.reshape(-1, count).T
    kind = name.removesuffix("p")
    if kind in ("flt", "dbl"):
        wave = np.clip(np.nan_to_num(values, posinf=LOUDEST, neginf=-LOUDEST), -LOUDEST, LOUDEST).astype(np.float32)
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
    """How loud a channel is on the left and on the right."""
    if name.startswith("LFE"):
        return 0.0, 0.0
    surround = 1.0 if name in ("FL", "FR") else 0.7071
    return {"L": (surround, 0.0), "R": (0.0, surround)}.get(name[-1:], (0.7071, 0.7071))


def _usable(frame: av.AudioFrame) -> bool:
    return frame.samples > 0 and RATES[0] <= frame.sample_rate <= RATES[1] and frame.layout.nb_channels > 0


class _Resampler:
    """Resamples one unbroken stretch of sound and knows the place of what comes out."""

    def __init__(self, source_rate: int, rate: int, channels: int, place: int):
        self.source_rate, self.rate = source_rate, rate
        self.layout = "mono" if channels == 1 else "stereo"
        self.resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=rate)
        self.begin = self.place = place
        self.fed = 0

    @property
    def expected(self) -> float:
        """Where the next sample that is fed belongs."""
        return self.begin + self.fed * self.rate / self.source_rate

    def feed(self, wave: np.ndarray | None) -> list[tuple[int, np.ndarray]]:
        frame = None
        if wave is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.source_rate, self.fed, Fraction(1, self.source_rate)
            self.fed += wave.shape[1]
        elif self.source_rate == self.rate:
            return []
        result = []
        for out in self.resampler.resample(frame):
            if out is None:
                continue
            samples = out.to_ndarray()
            if wave is None:  # the filter's own end, past the last sample
                samples = samples[:, : max(0, ceil(self.expected) - self.place)]
            if samples.shape[1]:
                result.append((self.place, samples))
                self.place += samples.shape[1]
        return result
