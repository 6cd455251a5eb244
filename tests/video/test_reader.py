"""Pictures: their times, places and colours, whatever the file."""

import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition

from avsmamba.utils import UserError
from avsmamba.video import VideoWarning, VideoWriter, join, open_video
from tests.video.clips import BOTTOM, CODECS, MARK, TOP, picture, sound_frames, tone, write_clip

TENTHS = [k / 10 for k in range(16)]


def close(image, colour, off=24):
    return np.abs(np.median(image.reshape(-1, 3), axis=0).astype(int) - colour).max() <= off


def is_upright(image):
    """Whether it is `picture` of the same size, tiny losses aside."""
    height, width = image.shape[:2]
    h, w = height // 4, width // 4
    return (
        close(image[1 : h - 1, 1 : w - 1], MARK)
        and close(image[h + 2 : 2 * h - 2, 1 : w - 1], TOP)
        and close(image[2 * h + 2 :, 1 : w - 1], BOTTOM)
    )


def index_of(image):
    """The `index` of `picture`, modulo 20."""
    height, width = image.shape[:2]
    part = image[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8, 1]
    return round((float(np.median(part)) - 20) / 10)


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


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_flag_is_applied(tmp_path, turns):
    upright = picture(48, 64)
    stored = np.ascontiguousarray(np.rot90(upright, -turns))  # turned clockwise; the flag turns it back
    path = write_clip(
        tmp_path / "clip.mp4", size=stored.shape[:2], images=[stored] * 4, times=TENTHS[:4], rotation=90 * turns
    )
    with open_video(path) as video:
        images = [image for _, image in video.frames()]
        assert (video.info.height, video.info.width) == (48, 64) and len(images) == 4
        assert all(is_upright(image) for image in images)


def test_mirrored_pictures_are_upright(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90, hflip=True)
        stored = np.ascontiguousarray(picture(48, 64).transpose(1, 0, 2))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    with open_video(path) as video:
        image = next(iter(video.frames()))[1]
        assert image.shape == (48, 64, 3)
        matrix = [np.frombuffer(bytes(f.side_data["DISPLAYMATRIX"]), np.int32) for f in av.open(str(path)).decode()]
        a, b, c, d = (int(matrix[0][k]) >> 16 for k in (0, 1, 3, 4))
        # (x, y) of what is stored goes to (a x + c y, b x + d y), pushed back to begin at 0
        ys, xs = np.mgrid[:64, :48]
        to_x, to_y = a * xs + c * ys, b * xs + d * ys
        placed = np.zeros_like(image)
        placed[to_y - to_y.min(), to_x - to_x.min()] = stored
        assert np.abs(image.astype(int) - placed).mean() < 12


@pytest.mark.parametrize(("suffix", "size"), [("mkv", (49, 65)), ("webm", (49, 65)), ("mp4", (17, 33))])
def test_odd_sizes_are_kept(tmp_path, suffix, size):
    path = write_clip(tmp_path / f"clip.{suffix}", size=size, times=[0.0, 0.1])
    with open_video(path) as video:
        images = [image for _, image in video.frames()]
        assert (video.info.height, video.info.width) == size and images[0].shape == (*size, 3)
        assert close(images[0][-4:, :4], BOTTOM) and close(images[0][1:6, -1:], (*TOP[:1], 20, 30), 40)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(48, 32), format="rgb24")))
        container.mux(stream.encode(None))
    with open_video(path) as video:
        assert (video.info.width, video.info.height) == (64, 48)
        assert is_upright(next(iter(video.frames()))[1])


def test_what_a_browser_records_says_neither_length_nor_rate(tmp_path):
    path = write_clip(tmp_path / "clip.webm", times=TENTHS, options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    with open_video(path) as video:
        assert video.info.duration == pytest.approx(1.6, abs=0.02)
        assert len(list(video.frames())) == 16 and [t for t, _ in video.sampled(2.0, start=1.5)] == [1.5]


def test_pictures_of_several_sizes_become_that_of_the_first(tmp_path):
    one = write_clip(tmp_path / "one.ts", codecs=("libx264", "aac"))
    two = write_clip(tmp_path / "two.ts", codecs=("libx264", "aac"), size=(32, 32))
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + two.read_bytes())
    with open_video(both) as video, warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        times, images = zip(*video.frames(), strict=True)
    assert len(times) > 24 and list(times) == sorted(set(times)) and times[-1] < 4
    assert {image.shape for image in images} == {(48, 64, 3)} and is_upright(images[-1])


def test_a_damaged_middle_is_skipped_with_a_warning(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", times=[k / 10 for k in range(60)], picture_options={"g": "5"})
    data = bytearray(path.read_bytes())
    begin, length = data.index(b"mdat"), data.index(b"moov") - data.index(b"mdat")
    data[begin + length // 3 : begin + length // 2] = bytes(length // 2 - length // 3)
    path.write_bytes(data)
    with open_video(path) as video:
        with pytest.warns(VideoWarning, match=r"clip\.mp4: damaged pictures: \d+ damaged packets skipped") as caught:
            times = [t for t, _ in video.frames()]
        assert len(caught) == 1 and 30 < len(times) < 60 and times[-1] == pytest.approx(5.9)


def test_avi_with_pictures_stored_out_of_order(tmp_path):
    path = write_clip(tmp_path / "clip.avi", codecs=("libx264", "libmp3lame"), picture_options={"g": "8", "bf": "3"})
    with open_video(path) as video:
        found = [(round(t, 3), index_of(image)) for t, image in video.frames()]
        assert found == [(k / 10, k) for k in range(16)]
        assert [(round(t, 3), index_of(image)) for t, image in video.frames(1.2)] == found[12:]


def test_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sounds = container.add_stream("aac", rate=8_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(48, 64), format="rgb24")))
        container.mux(cover.encode(None))
        for frame in sound_frames(tone(8_000, 1.0, 0.2, 0.8), 8_000, "mono"):
            container.mux(sounds.encode(frame))
        container.mux(sounds.encode(None))
    with pytest.raises(UserError, match=r"song\.mp4: has no pictures \(only sound\)"):
        open_video(path)


def test_special_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="regular file"):
        open_video("/dev/zero")
    with pytest.raises(UserError, match="no such file"):
        open_video("http://localhost/clip.mp4")
    with pytest.raises(UserError, match="cannot be read"):
        open_video("a\0b.mp4")


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(Path("clip.mkv"), times=[0.0]).rename("concat:a|b %03d ü.mkv")
    with open_video("concat:a|b %03d ü.mkv") as video:
        assert len(list(video.frames())) == 1


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
