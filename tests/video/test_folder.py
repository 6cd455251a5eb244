"""A folder of pictures and a wav as a video."""

import cv2
import numpy as np
import pytest
import soundfile

from avsmamba.utils import UserError
from avsmamba.video import VideoWarning, open_video
from tests.video.clips import index_of, picture, tone


def test_folder_of_pictures_and_a_wav(tmp_path):
    for k in range(12):
        cv2.imwrite(str(tmp_path / f"x{k}.png"), picture(48, 64, k)[:, :, ::-1])
    (tmp_path / ".hidden.png").write_bytes(b"x")
    soundfile.write(tmp_path / "sound.wav", np.stack([tone(44_100, 6.0, 2.0, 3.0)] * 2, 1), 44_100)
    with open_video(tmp_path, picture_rate=2.0) as video:
        info = video.info
        assert (info.width, info.height, info.duration, info.frame_rate) == (64, 48, 6.0, 2)
        assert (info.sample_rate, info.channels) == (44_100, 2)
        found = [(t, index_of(image)) for t, image in video.frames()]
        assert found == [(k / 2, k) for k in range(12)]  # x2 before x10
        assert [(t, index_of(image)) for t, image in video.sampled(1.0, start=3.0)] == [(3.0, 6), (4.0, 8), (5.0, 10)]
        wave = video.sound(0.0, 7.0)
    heard = np.flatnonzero(np.abs(wave) > 0.1) / 16_000
    assert (heard[0], heard[-1]) == pytest.approx((2.0, 3.0), abs=2e-3) and len(wave) == 112_000
    with open_video(tmp_path) as video:
        assert [t for t, _ in video.frames(start=10.0)] == [10.0, 11.0]


def test_a_broken_picture_in_a_folder_keeps_the_one_before(tmp_path):
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"{k}.png"), picture(48, 64, k)[:, :, ::-1])
    data = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(data[: len(data) // 2])
    with open_video(tmp_path) as video, pytest.warns(VideoWarning, match=r"1\.png: cannot be read as a picture"):
        assert [index_of(image) for _, image in video.frames()] == [0, 0, 2]
    (tmp_path / "sound.wav").write_bytes(b"no wav")
    with pytest.raises(UserError, match=r"sound\.wav: cannot be read as a sound"):
        open_video(tmp_path)
