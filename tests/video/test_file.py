"""Pictures of media files: orientation, sizes, and what is damaged or missing in the file."""

import warnings

import av
import numpy as np
import pytest

from avsmamba.video import VideoWarning, open_video
from tests.video.clips import BOTTOM, TENTHS, TOP, close, index_of, is_upright, picture, write_clip


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


def test_pixels_that_are_not_square_are_resampled(tmp_path):
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
