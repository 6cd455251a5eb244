"""Mux pictures and sound into one mp4."""

import heapq
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from avsmamba.utils import UserError, atomic_write
from avsmamba.video.container import Faults, decode, demux, find_stream, open_container, warn
from avsmamba.video.folder import find_wav
from avsmamba.video.sound import Sound, open_sound, sound_blocks

COPIED = ("aac", "mp3")  # codecs that mp4 holds and browsers play
MAX_OFFSET = 0.1  # s; a sound that starts further from the first picture is encoded anew, padded or cut
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
BIT_RATE = 80_000  # per channel
TimedPacket = tuple[Fraction, int, av.Packet]  # time, s; index of the stream


def join(pictures: str | Path, out: str | Path, sound: str | Path | None = None) -> None:
    """Write pictures and a sound to one mp4; the pictures are copied, not encoded again.

    Args:
        pictures: a file of `VideoWriter`.
        out: the file to write, atomically.
        sound: the video, sound file or folder whose sound is added, until the pictures end; time 0 of a video is its
            first picture. AAC and MP3 are copied if they can be decoded without a fault and begin with the pictures;
            any other sound is encoded as AAC (mono or stereo, at most 48 kHz). A file without sound adds none.

    Raises:
        UserError: if the pictures cannot be read, the sound is missing or unreadable, or `out` cannot be written.
    """
    target, path = Path(out), Path(pictures)
    source = None if sound is None else _open_sound(Path(sound))
    with open_container(path) as source_container:
        found = find_stream(source_container, "video")
        if not isinstance(found, VideoStream) or found.codec_context.name != "h264" or not found.time_base:
            raise UserError(f"{path}: expected a video in H.264")
        end = ((found.start_time or 0) + (found.duration or 0)) * found.time_base
        try:
            with (
                atomic_write(target) as temporary,
                av.open(str(temporary.absolute()), "w", format="mp4", options={"movflags": "+faststart"}) as container,
            ):
                streams = [_pictures(source_container, found, container.add_stream_from_template(found), path)]
                if source is not None:
                    streams.append(_sound(source, container, end))
                for _, _, packet in heapq.merge(*streams, key=lambda item: item[:2]):
                    container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _pictures(container: InputContainer, found: VideoStream, stream: VideoStream, path: Path) -> Iterator[TimedPacket]:
    faults = Faults()
    for packet in demux(container, found, faults):
        if packet.dts is not None and packet.pts is not None and packet.time_base:
            packet.stream = stream
            yield packet.pts * packet.time_base, 0, packet
    if faults.cut:
        raise UserError(f"{path}: is damaged")


def _open_sound(path: Path) -> Sound | None:
    if path.is_dir():
        wav = find_wav(path)
        return None if wav is None else Sound(wav)
    with open_container(path, "a sound or a video with sound") as container:
        if not container.streams.audio:
            return None
    try:
        return open_sound(path)
    except UserError:
        warn(f"{path}: its sound cannot be decoded and is omitted")
        return None


def _sound(source: Sound, container: OutputContainer, end: Fraction) -> Iterator[TimedPacket]:
    """Return the packets of the sound; its stream is added at once, before the header is written."""
    if _copyable(source):
        with open_container(source.path, "a sound") as source_container:
            found = find_stream(source_container, "audio")
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
    """Return whether it begins with the pictures and can be decoded without a fault (browsers stop at one)."""
    if abs(source.start - source.origin) > MAX_OFFSET:
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


def _copied(source: Sound, stream: AudioStream, end: Fraction) -> Iterator[TimedPacket]:
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


def _encoded(source: Sound, stream: AudioStream, rate: int, channels: int, end: Fraction) -> Iterator[TimedPacket]:
    count = 0
    for wave in _without_gaps(source, rate, channels, round(end * rate)):
        layout = "mono" if channels == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, count, Fraction(1, rate)
        count += wave.shape[1]
        for packet in stream.encode(frame):
            yield _timed(packet)
    for packet in stream.encode(None):
        yield _timed(packet)


def _timed(packet: av.Packet) -> TimedPacket:
    assert packet.pts is not None and packet.time_base
    return packet.pts * packet.time_base, 1, packet


def _without_gaps(source: Sound, rate: int, channels: int, end: int) -> Iterator[np.ndarray]:
    """Yield `(channels, samples)` from time 0 to the end of the sound or the pictures, with zeros in gaps."""
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
