"""Joining the parts of a video and laying the source's sound beside them."""

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from avsmamba.utils import UserError, atomic_write
from avsmamba.video.sound import Sound, open_sound, sound_blocks
from avsmamba.video.source import Faults, decode, demux, find_stream, open_container, warn

COPIED = ("aac", "mp3")  # what mp4 holds and browsers play in it
NEAR = 0.1  # s; a sound that starts further from the first picture is encoded with silence or a cut before it
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
BIT_RATE = 80_000  # a second for each channel
Timed = tuple[Fraction, int, av.Packet]


def join(
    parts: Sequence[str | Path], out: str | Path, sound: str | Path | None = None, until: float | None = None
) -> None:
    """Write the pictures of parts, one after another, and a sound to one mp4 without encoding pictures again.

    Args:
        parts: files of `VideoWriter`, all of the same size. Their time stamps are kept; a part that begins before the
            last one ends is moved to begin where that ends.
        out: the file to write; it appears whole, or not at all.
        sound: the video, sound file or folder whose sound is heard beside; time 0 of a video is its first picture. AAC
            and MP3 are copied if they can be decoded without a fault and begin with the pictures, all else becomes
            AAC (mono or stereo, 48 kHz at most). One without sound gives none.
        until: where to cut pictures and sound, s; None is the end of the pictures, where the sound is cut in any case.

    Raises:
        UserError: if a part cannot be read or is of another kind than the first, the sound is missing or no media
            file, or `out` cannot be written.
        ValueError: if there are no parts, or no picture is before `until`.
    """
    if not parts:
        raise ValueError("parts: expected at least one")
    target, files = Path(out), [Path(part) for part in parts]
    end = min(_end(files), Fraction(until) if until is not None else Fraction(1 << 40))
    if end <= 0:
        raise ValueError(f"until: expected a time after the first picture, got {until}")
    source = None if sound is None else _open_sound(Path(sound))
    try:
        with (
            atomic_write(target) as temporary,
            av.open(str(temporary.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            with open_container(files[0], "a part of a video") as first:
                picture_stream = container.add_stream_from_template(_video(first, files[0]))
            streams = [_pictures(files, picture_stream, end)]
            if source is not None:
                streams.append(_sound(source, container, end))
            for _, _, packet in heapq.merge(*streams, key=lambda item: item[:2]):
                container.mux(packet)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _video(container: av.container.InputContainer, path: Path) -> VideoStream:
    stream = find_stream(container, "video")
    if not isinstance(stream, VideoStream) or stream.codec_context.name != "h264":
        raise UserError(f"{path}: expected a part of a video in H.264")
    return stream


def _packets(files: list[Path]) -> Iterator[tuple[av.Packet, int]]:
    """The packets of all parts and how far each is moved, in its ticks.

    None lasts into the next one: the last of a part claims the average length of a picture, which at a variable rate
    may reach into the next part. Moving that part for it would add up over many.
    """
    held: tuple[av.Packet, int] | None = None
    for packet, first in _all_packets(files):
        at, shift = packet.pts or 0, 0 if held is None else held[1]
        if held is not None:
            before = (held[0].pts or 0) + held[1]
            if first:
                shift = 0 if at > before else before + (held[0].duration or 0) - at
            if at + shift > before:
                held[0].duration = min(held[0].duration or 0, at + shift - before)
            yield held
        held = packet, shift
    if held is not None:
        yield held


def _all_packets(files: list[Path]) -> Iterator[tuple[av.Packet, bool]]:
    """The packets of all parts as they are, and whether one is the first of its part."""
    kind = None
    for file in files:
        with open_container(file, "a part of a video") as container:
            stream = _video(container, file)
            found = (stream.codec_context.extradata, stream.width, stream.height, stream.time_base)
            kind = kind or found
            if found != kind:
                raise UserError(f"{file}: expected the encoding of {files[0].name}, size and settings alike")
            first, faults = True, Faults()
            for packet in demux(container, stream, faults):
                if packet.dts is None or packet.pts is None:
                    continue
                yield packet, first
                first = False
            if faults.cut:
                raise UserError(f"{file}: is damaged; expected a part of a video")


def _end(files: list[Path]) -> Fraction:
    end = Fraction(0)
    for packet, shift in _packets(files):
        assert packet.pts is not None and packet.time_base
        end = max(end, (packet.pts + shift + (packet.duration or 0)) * packet.time_base)
    return end


def _pictures(files: list[Path], stream: VideoStream, end: Fraction) -> Iterator[Timed]:
    for packet, shift in _packets(files):
        assert packet.pts is not None and packet.dts is not None and packet.time_base
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        time = packet.pts * packet.time_base
        if time < end:
            left = int((end - time) / packet.time_base)
            packet.duration = min(packet.duration or 0, max(left, 1))
            packet.stream = stream
            yield time, 0, packet


def _open_sound(path: Path) -> Sound | None:
    if path.is_dir():
        from avsmamba.video.folder import find_wav

        wav = find_wav(path)
        return None if wav is None else Sound(wav)
    with open_container(path, "a sound or a video with sound") as container:
        if not container.streams.audio:
            return None
    try:
        return open_sound(path)
    except UserError:
        warn(f"{path}: its sound cannot be decoded and is left out")
        return None


def _sound(source: Sound, container: OutputContainer, end: Fraction) -> Iterator[Timed]:
    """The packets of the sound; its stream is added at once, so that the file's head knows of it."""
    if _copyable(source):
        with open_container(source.path, "a sound") as given:
            found = find_stream(given, "audio")
            assert isinstance(found, AudioStream)
            stream = container.add_stream_from_template(found)
        return _copied(source, stream, end)
    rate = next((rate for rate in AAC_RATES if rate >= source.sample_rate), AAC_RATES[-1])
    channels = min(source.channels, 2)
    stream = container.add_stream("aac", rate=rate, layout="mono" if channels == 1 else "stereo")
    assert isinstance(stream, AudioStream)
    stream.bit_rate = BIT_RATE * channels
    stream.codec_context.time_base = Fraction(1, rate)
    return _encoded(source, stream, rate, channels, end)


def _copyable(source: Sound) -> bool:
    """Whether all of it can be decoded (a browser stops at a fault) and it begins where the pictures do."""
    if abs(source.start - source.origin) > NEAR:
        return False
    with open_container(source.path, "a sound") as container:
        stream = find_stream(container, "audio")
        if stream is None or stream.codec_context.name.removesuffix("float") not in COPIED:
            return False
        if stream.codec_context.name == "aac" and not stream.codec_context.extradata:
            return False
        faults = Faults()
        rates = {frame.sample_rate for frame in decode(container, stream, faults)}
        return len(rates) == 1 and not (faults.packets or faults.cut)


def _copied(source: Sound, stream: AudioStream, end: Fraction) -> Iterator[Timed]:
    with open_container(source.path, "a sound") as container:
        found = find_stream(container, "audio")
        assert found is not None
        for packet in demux(container, found, Faults()):
            if packet.dts is None or packet.pts is None or not packet.time_base:
                continue
            shift = round(source.origin / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            time = packet.pts * packet.time_base
            if time >= end:
                return
            packet.stream = stream
            yield time, 1, packet


def _encoded(source: Sound, stream: AudioStream, rate: int, channels: int, end: Fraction) -> Iterator[Timed]:
    count = 0
    for wave in _unbroken(source, rate, channels, round(end * rate)):
        layout = "mono" if channels == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, count, Fraction(1, rate)
        count += wave.shape[1]
        for packet in stream.encode(frame):
            yield _timed(packet)
    for packet in stream.encode(None):
        yield _timed(packet)


def _timed(packet: av.Packet) -> Timed:
    assert packet.pts is not None and packet.time_base
    return packet.pts * packet.time_base, 1, packet


def _unbroken(source: Sound, rate: int, channels: int, end: int) -> Iterator[np.ndarray]:
    """The sound from time 0 to where it or the pictures end, zeros where there is none."""
    done, faults = 0, Faults()
    for at, wave in sound_blocks(source.path, source.origin, rate, channels, None, faults):
        while done < min(at, end):
            gap = min(at - done, end - done, rate)
            yield np.zeros((channels, gap), np.float32)
            done += gap
        wave = wave[:, max(0, done - at) : max(0, end - at)]
        if wave.shape[1]:
            yield np.clip(wave, -1.0, 1.0)
            done += wave.shape[1]
        if done >= end:
            break
    faults.warn(source.path, "sound")
