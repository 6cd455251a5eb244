"""Pictures: their times, places and colours, whatever the file."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from avsmamba.video import VideoWriter, join, open_video
from tests.video.clips import CODECS, TENTHS, index_of, is_upright, picture, tone, write_clip


@pytest.mark.parametrize("suffix", CODECS)
def test_pictures_and_their_times_of_every_format(tmp_path, suffix):
    path = write_clip(tmp_path / f"clip.{suffix}", sound=tone(48_000, 1.6, 0.5, 1.0), picture_options={"g": "5"})
    with open_video(path) as video:
        info = video.info
        found = list(video.frames())
        assert (info.path, info.width, info.height, info.channels, info.has_audio) == (path, 64, 48, 1, True)
        assert info.sample_rate == 48_000 and info.duration == pytest.approx(1.6, abs=0.11)
        assert float(info.frame_rate) == pytest.approx(10, rel=0.1)
        times, images = zip(*found, strict=True)
        expected = TENTHS
        if suffix == "avi":  # PyAV's mpeg4 encoder gives the second picture the third place
            expected = [0.0, *(k / 10 for k in range(2, 17))]
        assert times == pytest.approx(expected, abs=1e-3)
        assert all(image.shape == (48, 64, 3) and image.dtype == np.uint8 and is_upright(image) for image in images)
        assert [index_of(image) for image in images] == list(range(16))
        late = list(video.frames(start=1.2))  # after a seek
        assert [t for t, _ in late] == [t for t in times if t >= 1.2 - 1e-6]
        assert all((a == b).all() for (_, a), b in zip(late, images[-len(late) :], strict=True))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "mov"])
def test_variable_rate_keeps_times_and_samples_what_is_shown(tmp_path, suffix):
    times = [0.0, 0.1, 0.15, 0.6, 0.61, 1.9, 2.4]
    path = write_clip(tmp_path / f"clip.{suffix}", times=times)
    with open_video(path) as video:
        assert [t for t, _ in video.frames()] == pytest.approx(times, abs=1.1e-3)
        sampled = [(t, index_of(image)) for t, image in video.sampled(4.0)]
        assert sampled[:10] == [
            (k / 4, shown) for k, shown in enumerate([0, 2, 2, 4, 4, 4, 4, 4, 5, 5])
        ]  # at 0, 0.25, ... 2.25 s
        assert all(shown == 6 for _, shown in sampled[10:])
        assert [(t, index_of(image)) for t, image in video.sampled(4.0, start=1.3)] == sampled[6:]
        assert list(video.sampled(1.0, start=50.0)) == list(video.frames(start=50.0)) == []


def test_sampled_gives_one_picture_for_each_second_of_whole_seconds(tmp_path):
    for suffix in ("mp4", "mkv"):
        path = write_clip(tmp_path / f"clip.{suffix}", times=[k / 30 for k in range(90)], picture_rate=30)
        with open_video(path) as video:
            assert [t for t, _ in video.sampled(1.0)] == [0.0, 1.0, 2.0]
    path = write_clip(tmp_path / "one.mp4", times=[0.0])
    with open_video(path) as video:
        assert [t for t, _ in video.sampled(1.0)] == [0.0]
        with pytest.raises(ValueError, match="fps"):
            next(video.sampled(0.0))


MEMORY = """
import resource, sys
from avsmamba.video import open_video
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with open_video(sys.argv[1]) as video:
    at, begin, count = 0, None, 0
    for time, picture in video.frames():
        count += 1
        if time >= at:
            video.sound(at, at + 0.975)
            at += 1
        begin = begin or (peak() if time > 20 else None)
    print(count, begin, peak())
"""


def test_memory_does_not_grow_with_length(tmp_path):
    size = (96, 128)
    with VideoWriter(tmp_path / "pictures.mp4", size[1], size[0], 10) as writer:
        for k in range(1600):
            writer.write(picture(*size, k), k / 10)
    soundfile.write(tmp_path / "sound.wav", tone(8_000, 160, 1.0, 150.0), 8_000)
    join(tmp_path / "pictures.mp4", tmp_path / "long.mp4", tmp_path / "sound.wav")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "long.mp4")], capture_output=True, text=True, check=True
    )
    count, begin, end = map(float, done.stdout.split())
    assert count == 1600 and end - begin < 8  # MiB; its pictures are 56 MiB, its sound is 10


def test_times_and_numbers_of_pictures(tmp_path):
    times = [0, 0.1, 0.4, 0.5, 1.1]
    path = write_clip(tmp_path / "a.mp4", times=times)
    with open_video(path) as video:
        pairs = list(video.times())
        assert np.allclose([start for start, _ in pairs], times, atol=1e-3) and all(end > start for start, end in pairs)
        assert [(number, index_of(shown)) for number, shown in video.numbered({1, 4, 7})] == [(1, 1), (4, 4)]
