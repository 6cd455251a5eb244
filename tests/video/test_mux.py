"""Pictures and a sound become one file."""

import os

import av
import numpy as np
import pytest
import soundfile

from avsmamba.utils import UserError
from avsmamba.video import VideoWarning, join, open_video
from tests.video.clips import tone, write_clip
from tests.video.test_sound import pitch, span
from tests.video.test_writer import write


def pictures_of(folder, count):
    return write(folder / "pictures.mp4", [k / 10 for k in range(count)], (16, 16))


def packets(path, kind):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.35, 0.4, 2.0, 2.25], [60.0, 60.1, 60.5]])
def test_times_are_kept_and_pictures_are_not_encoded_again(tmp_path, times):
    pictures = write(tmp_path / "pictures.mp4", times, (16, 16))
    sound = tmp_path / "a.wav"
    soundfile.write(sound, tone(16_000, 70.0, 0.0, 70.0), 16_000)
    for more in ((), (sound,)):
        join(pictures, tmp_path / "out.mp4", *more)
        with av.open(str(tmp_path / "out.mp4")) as container:
            found = [frame.time for frame in container.decode(video=0)]
            assert found == pytest.approx(times, abs=1e-4)
            assert len(container.streams.audio) == len(more)
            end = (container.start_time + container.duration) / av.time_base
            assert end == pytest.approx(times[-1] + 0.1, abs=0.03)
        assert packets(tmp_path / "out.mp4", "video") == packets(pictures, "video")


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "layout", "copied"),
    [
        ("mp4", "aac", 44_100, "stereo", True),
        ("mkv", "aac", 48_000, "5.1", True),
        ("avi", "libmp3lame", 44_100, "stereo", True),
        ("mkv", "libopus", 48_000, "7.1", False),
        ("mov", "pcm_s16le", 8_000, "mono", False),
        ("mkv", "flac", 96_000, "5.1", False),
        ("mkv", "pcm_s16le", 11_025, "mono", False),
    ],
)
def test_sound_is_copied_where_it_can_be(tmp_path, suffix, codec, rate, layout, copied):
    source = write_clip(
        tmp_path / f"source.{suffix}",
        sound=tone(rate, 2.0, 0.5, 1.0),
        rate=rate,
        layout=layout,
        codecs=("mpeg4" if suffix == "avi" else "libx264", codec),
        size=(16, 16),
    )
    join(pictures_of(tmp_path, 16), tmp_path / "out.mp4", source)
    channels = av.AudioLayout(layout).nb_channels
    with open_video(source) as video:
        expected = video.sound(0.0, 1.6)
    with open_video(tmp_path / "out.mp4") as video:
        found = video.sound(0.0, 1.6)
        assert video.sound(1.7, 3.0).max() == 0 and len(list(video.frames())) == 16
        assert video.info.channels == (channels if copied else min(2, channels))
    assert span(found, 0.1) == pytest.approx(span(expected, 0.1), abs=4e-3)
    assert pitch(found) == pytest.approx(440, abs=1)
    given, written = packets(source, "audio"), packets(tmp_path / "out.mp4", "audio")
    assert (written == given[: len(written)]) == copied
    assert not copied or len(written) == pytest.approx(0.8 * len(given), abs=4)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == ("mp3float" if "mp3" in codec else "aac")


@pytest.mark.parametrize(("pictures_start", "sound_start"), [(0.0, 0.7), (0.4, 0.0)])
def test_sound_that_begins_elsewhere_keeps_its_place(tmp_path, pictures_start, sound_start):
    source = write_clip(
        tmp_path / "source.mp4",
        times=[pictures_start + k / 10 for k in range(16)],
        sound=tone(48_000, 1.2, 0.5, 1.0),
        sound_start=sound_start,
        size=(16, 16),
    )
    join(pictures_of(tmp_path, 25), tmp_path / "out.mp4", source)
    begin = 0.5 + sound_start - pictures_start
    with open_video(tmp_path / "out.mp4") as video:
        assert span(video.sound(0.0, 2.5), 0.1) == pytest.approx((begin, begin + 0.5), abs=5e-3)
        assert video.info.duration == pytest.approx(2.5, abs=1e-3)
    with av.open(str(tmp_path / "out.mp4")) as container:  # browsers want both tracks to begin at once
        assert abs(container.streams.audio[0].start_time * container.streams.audio[0].time_base) < 0.1


def test_a_wav_and_a_folder_give_their_sound(tmp_path):
    (tmp_path / "folder").mkdir()
    soundfile.write(tmp_path / "folder" / "a.wav", tone(16_000, 1.0, 0.3, 0.6), 16_000)
    pictures = pictures_of(tmp_path, 20)
    for sound in (tmp_path / "folder", tmp_path / "folder" / "a.wav"):
        join(pictures, tmp_path / "out.mp4", sound)
        with open_video(tmp_path / "out.mp4") as video:
            assert span(video.sound(0.0, 2.0), 0.1) == pytest.approx((0.3, 0.6), abs=4e-3)
    os.remove(tmp_path / "folder" / "a.wav")
    join(pictures, tmp_path / "out.mp4", tmp_path / "folder")
    join(pictures, tmp_path / "out2.mp4", pictures)
    for name in ("out.mp4", "out2.mp4"):
        with open_video(tmp_path / name) as video:
            assert not video.info.has_audio


def test_damaged_sound_is_encoded_anew(tmp_path):
    rng = np.random.default_rng(0)
    source = write_clip(tmp_path / "source.mkv", sound=tone(48_000, 1.6, 0.2, 1.4), codecs=("libx264", "aac"))
    data, pieces = bytearray(source.read_bytes()), packets(source, "audio")
    for piece in pieces[20:24]:
        at = data.index(piece)
        data[at : at + len(piece)] = rng.bytes(len(piece))
    source.write_bytes(data)
    with pytest.warns(VideoWarning, match=r"source\.mkv: damaged sound"):
        join(pictures_of(tmp_path, 16), tmp_path / "out.mp4", source)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(audio=0))  # without an error
    assert 65 < len(frames) < 85


def test_what_cannot_be_joined_leaves_nothing(tmp_path):
    pictures = pictures_of(tmp_path, 3)
    (tmp_path / "bad.mp4").write_bytes(pictures.read_bytes()[:200])
    write_clip(tmp_path / "other.avi")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=r"other\.avi: expected a video in H\.264"):
        join(tmp_path / "other.avi", tmp_path / "out.mp4")
    with pytest.raises(UserError, match=r"bad\.mp4"):
        join(tmp_path / "bad.mp4", tmp_path / "out.mp4")
    with pytest.raises(UserError, match=r"none\.mp4: no such file"):
        join(pictures, tmp_path / "out.mp4", tmp_path / "none.mp4")
    with pytest.raises(UserError, match=r"out\.mp4: cannot be written"):
        join(pictures, pictures / "out.mp4")
    assert sorted(os.listdir(tmp_path)) == before
