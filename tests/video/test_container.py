"""Opening of files: what is no video is refused."""

from pathlib import Path

import av
import pytest
from av.stream import Disposition

from avsmamba.utils import UserError
from avsmamba.video import open_video
from tests.video.clips import picture, sound_frames, tone, write_clip


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
