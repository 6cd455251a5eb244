"""What is written: playable, with its times and colours, or not there at all."""

import os

import av
import numpy as np
import pytest

from avsmamba.utils import UserError
from avsmamba.video import VideoWriter, open_video
from tests.video.clips import BOTTOM, TOP, picture


def write(path, times, size=(48, 64), rate=10):
    with VideoWriter(path, size[1], size[0], rate) as writer:
        for k, time in enumerate(times):
            writer.write(picture(*size, k), time)
    return path


def test_times_colours_and_what_browsers_need(tmp_path):
    times = [0.0, 0.1, 0.15, 0.6, 0.61, 1.9]
    path = write(tmp_path / "new" / "out.mp4", times)
    with open_video(path) as video:
        found = list(video.frames())
        assert [t for t, _ in found] == pytest.approx(times, abs=2e-5) and video.info.duration == pytest.approx(2.0)
        for _, image in found:
            assert np.abs(image[40, 4].astype(int) - BOTTOM).max() < 14
            assert np.abs(image[18, 4].astype(int) - TOP).max() < 14
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert all(packet.pts == packet.dts for packet in container.demux(video=0))
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded whole
    assert [file.name for file in path.parent.iterdir()] == ["out.mp4"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(("size", "stored"), [((25, 33), (26, 34)), ((1, 1), (2, 2)), ((16, 17), (16, 18))])
def test_odd_sizes_are_padded(tmp_path, size, stored):
    path = write(tmp_path / "out.mp4", [0.0, 0.5], size)
    with open_video(path) as video:
        images = [image for _, image in video.frames()]
        assert images[0].shape == (*stored, 3)
        assert np.abs(images[0][:, -1].astype(int) - images[0][:, size[1] - 1]).max() < 12


def test_an_error_or_no_picture_leaves_nothing_new(tmp_path):
    path = tmp_path / "out.mp4"
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error, match="mine"), VideoWriter(path, 64, 48, 10) as writer:
            writer.write(picture(48, 64), 0.0)
            raise error("mine")
    with VideoWriter(path, 64, 48, 10):
        pass
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="rgb"), VideoWriter(path, 64, 48, 10) as writer:
        writer.write(picture(48, 62), 0.0)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.mp4"]


def test_faulty_arguments(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 64, 48, 0.001) as writer:
        writer.write(picture(48, 64), 0.0)
        for time in (0.0, -1.0):
            with pytest.raises(ValueError, match="time: expected one after 0.0 s"):
                writer.write(picture(48, 64), time)
        with pytest.raises(ValueError, match=r"rgb: expected \(48, 64, 3\) uint8, got \(48, 64, 3\) float64"):
            writer.write(picture(48, 64) / 1.0, 1.0)
    with pytest.raises(ValueError, match="width"):
        VideoWriter(tmp_path / "b.mp4", 0, 48, 10)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"b\.mp4: cannot be written"), VideoWriter(tmp_path / "file" / "b.mp4", 2, 2):
        pass
