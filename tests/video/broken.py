"""Fifty broken or odd files and folders, the same for the same seed."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import soundfile

from tests.video.clips import picture, tone, write_clip

TEXT = "This is no video, whatever its name says.\n" * 40
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
SCRIPT = "ffconcat version 1.0\nfile {}\n"


class Broken(NamedTuple):
    """What is broken, where it is, and what must come of it.

    `expected` is 'error' (one line that names the file), 'valid' (it is odd but whole) or 'either' (an error or what
    can be decoded).
    """

    kind: str
    path: Path
    expected: str


def write_broken(folder, seed=0):
    """Write all fifty into `folder` (made if needed; about a second).

    Returns:
        A list of `Broken`. One of the paths does not exist, on purpose.
    """
    folder = Path(folder)
    whole = folder / "whole"
    whole.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    clips = [_clip(whole / f"{name}.{suffix}", **more) for name, suffix, more in SOURCES]
    cases = [*_damaged(folder, clips, rng), *_misnamed(folder, whole, rng), *_odd(folder), *_folders(folder, rng)]
    assert len(cases) == 50 and len({case.path for case in cases}) == 50
    return cases


SOURCES = [
    ("head", "mp4", {"options": {"movflags": "+faststart"}}),
    ("tail", "mp4", {}),
    ("clip", "mkv", {}),
    ("clip", "webm", {"picture_options": {"deadline": "realtime", "cpu-used": "8"}}),
    ("clip", "mov", {"rate": 8_000}),
    ("clip", "avi", {}),
]


def _clip(path, **more):
    rate = more.pop("rate", 48_000)
    return write_clip(path, sound=tone(rate, 1.6, 0.5, 1.0), rate=rate, **more)


def _damaged(folder, clips, rng):
    cases = []

    def add(kind, source, data, expected="either"):
        path = folder / f"{len(cases):02d}_{kind}{source.suffix}"
        path.write_bytes(data)
        cases.append(Broken(kind, path, expected))

    for source in clips:
        data = source.read_bytes()
        for low, high in ((0.02, 0.5), (0.5, 0.99)):
            add("truncated", source, data[: int(len(data) * rng.uniform(low, high))])
        add("flipped", source, _flip(data, rng, len(data), len(data) // 200))
        add("flipped_head", source, _flip(data, rng, 1500, 25))
    data = bytearray(clips[0].read_bytes())
    data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    add("zeroed", clips[0], bytes(data))
    data = clips[2].read_bytes()
    add("beheaded", clips[2], data[int(len(data) * rng.uniform(0.1, 0.6)) :])
    return cases


def _flip(data, rng, below, count):
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, min(below, len(changed)), max(1, count))
    changed[places] ^= rng.integers(1, 256, len(places)).astype(np.uint8)
    return changed.tobytes()


def _misnamed(folder, whole, rng):
    wave = tone(16_000, 1.0, 0.2, 0.8)
    soundfile.write(whole / "sound.wav", wave, 16_000)
    cv2.imwrite(str(whole / "picture.png"), picture(48, 64))
    write_clip(whole / "sound.mp3", sound=wave, rate=16_000, codecs=(None, "libmp3lame"))
    contents = [
        ("mkv_as_mp4", "a.mp4", (whole / "clip.mkv").read_bytes(), "valid"),
        ("mp4_as_avi", "b.avi", (whole / "head.mp4").read_bytes(), "valid"),
        ("webm_without_suffix", "c", (whole / "clip.webm").read_bytes(), "valid"),
        ("wav_as_mp4", "d.mp4", (whole / "sound.wav").read_bytes(), "error"),
        ("png_as_mp4", "e.mp4", (whole / "picture.png").read_bytes(), "error"),
        ("mp3_as_mkv", "f.mkv", (whole / "sound.mp3").read_bytes(), "error"),
        ("empty", "g.mp4", b"", "error"),
        ("random", "h.mp4", rng.bytes(20_000), "error"),
        ("random", "i.webm", rng.bytes(3_000), "error"),
        ("random", "j.avi", b"RIFF" + rng.bytes(4) + b"AVI LIST" + rng.bytes(5_000), "error"),
        ("text", "k.mp4", TEXT.encode(), "error"),
        ("playlist", "l.mp4", PLAYLIST.encode(), "error"),
        ("script", "m.mkv", SCRIPT.format(whole / "clip.mkv").encode(), "error"),
    ]
    for _, name, data, _ in contents:
        (folder / name).write_bytes(data)
    return [Broken(kind, folder / name, expected) for kind, name, _, expected in contents]


def _odd(folder):
    wave = tone(48_000, 1.6, 0.5, 1.0)
    cases = [
        ("no_frames", "no_frames.mkv", {"times": [], "sound": wave}, "error"),
        ("only_sound", "only_sound.mp4", {"codecs": (None, "aac"), "sound": wave}, "error"),
        ("only_sound", "only_sound.mkv", {"codecs": (None, "flac"), "sound": wave}, "error"),
        ("short_sound", "short_sound.mp4", {"sound": wave[: 48_000 * 4 // 5]}, "valid"),
        ("late_sound", "late_sound.mkv", {"sound": wave[:24_000], "sound_start": 0.9}, "valid"),
        ("no_sound", "no_sound.webm", {"times": [0.0, 0.4]}, "valid"),
    ]
    for _, name, more, _ in cases:
        write_clip(folder / name, **more)
    missing = Broken("missing", folder / "missing.mp4", "error")
    return [Broken(kind, folder / name, expected) for kind, name, _, expected in cases] + [missing]


def _folders(folder, rng):
    names = ("no_pictures", "broken_pictures", "two_wavs", "two_sizes")
    none, broken, wavs, sizes = (folder / name for name in names)
    for path in (none, broken, wavs, sizes):
        path.mkdir()
    (none / "notes.txt").write_text(TEXT)
    for k in range(3):
        (broken / f"{k}.png").write_bytes(rng.bytes(400))
        cv2.imwrite(str(wavs / f"{k}.png"), picture(48, 64, k))
        cv2.imwrite(str(sizes / f"{k}.jpg"), picture(48, 64 - 2 * k, k))
    for name in "ab":
        soundfile.write(wavs / f"{name}.wav", tone(8_000, 1.0, 0.2, 0.8), 8_000)
    return [Broken(path.name, path, "error") for path in (none, broken, wavs, sizes)]
