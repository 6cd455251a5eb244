"""Sound: its pitch and its place on the clock of the pictures."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from avsmamba.utils import UserError
from avsmamba.video import open_sound, open_video
from tests.video.clips import sound_frames, tone, write_clip

RATE = 16_000


def pitch(wave):
    """Of the loudest part of the spectrum, Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4 * RATE))
    return float(np.argmax(spectrum)) / 4


def span(wave, level=0.15):
    """Where it is first and last louder than a level, s."""
    loud = np.flatnonzero(np.abs(wave) > level) / RATE
    return float(loud[0]), float(loud[-1])


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000])
def test_rates_and_channels(tmp_path, rate, layout):
    wave = tone(rate, 1.6, 0.5, 1.0)
    path = write_clip(
        tmp_path / "clip.mov", times=[0.0, 0.8], sound=wave, rate=rate, layout=layout, codecs=("libx264", "pcm_s16le")
    )
    with open_video(path) as video:
        found = video.sound(0.0, 1.6)
        assert (video.info.sample_rate, video.info.channels) == (rate, av.AudioLayout(layout).nb_channels)
    assert found.dtype == np.float32 and found.shape == (25_600,)
    assert span(found) == pytest.approx((0.5, 1.0), abs=1.5e-3) and pitch(found) == pytest.approx(440, abs=1)
    assert np.abs(found).max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "layout"),
    [
        ("mp4", "aac", 44_100, "stereo"),
        ("mp4", "aac", 48_000, "5.1"),
        ("mkv", "aac", 32_000, "mono"),
        ("mkv", "libopus", 48_000, "7.1"),
        ("mkv", "flac", 96_000, "stereo"),
        ("mkv", "pcm_f64le", 22_050, "mono"),
        ("mov", "pcm_u8", 16_000, "mono"),
        ("mov", "pcm_s24le", 48_000, "stereo"),
        ("webm", "libopus", 48_000, "stereo"),
        ("avi", "pcm_s16le", 44_100, "stereo"),
        ("mkv", "ac3", 48_000, "5.1"),
    ],
)
def test_codecs(tmp_path, suffix, codec, rate, layout):
    pictures = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
    path = write_clip(
        tmp_path / f"clip.{suffix}",
        sound=tone(rate, 1.6, 0.5, 1.0),
        rate=rate,
        layout=layout,
        codecs=(pictures, codec),
        size=(16, 16),
    )
    with open_video(path) as video:
        found = video.sound(0.0, 1.6)
    assert span(found, 0.1) == pytest.approx((0.5, 1.0), abs=4e-3)
    assert pitch(found) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(("pictures_start", "sound_start"), [(0.0, 0.7), (0.4, 0.0), (0.4, 1.0)])
def test_offsets_of_the_tracks_are_kept(tmp_path, suffix, pictures_start, sound_start):
    path = write_clip(
        tmp_path / f"clip.{suffix}",
        times=[pictures_start + k / 10 for k in range(20)],
        sound=tone(48_000, 1.2, 0.5, 1.0),
        sound_start=sound_start,
        size=(16, 16),
    )
    with open_video(path) as video:
        assert [t for t, _ in video.frames()][:2] == pytest.approx([0.0, 0.1], abs=1e-3)
        found = video.sound(0.0, 2.5)
    begin = 0.5 + sound_start - pictures_start
    assert span(found) == pytest.approx((begin, begin + 0.5), abs=4e-3)
    assert not found[: int((max(0, begin) - 0.03) * RATE)].any() and not found[int((begin + 0.8) * RATE) :].any()


def test_no_track_is_silence(tmp_path):
    with open_video(write_clip(tmp_path / "clip.mp4")) as video:
        assert not video.info.has_audio and video.info.sample_rate is None
        assert video.sound(3.0, 4.5).shape == (24_000,) and not video.sound(0.0, 1.0).any()
        with pytest.raises(ValueError, match="stop"):
            video.sound(2.0, 1.0)


def test_windows_agree_with_the_whole_forwards_backwards_and_far(tmp_path):
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, 60 * 8_000).astype(np.float32)
    for suffix, codec in (("mkv", "flac"), ("avi", "pcm_s16le"), ("mp4", "aac")):
        path = write_clip(
            tmp_path / f"clip.{suffix}",
            sound=wave,
            rate=8_000,
            codecs=("mpeg4" if suffix == "avi" else "libx264", codec),
            size=(16, 16),
            times=[k / 10 for k in range(600)],
        )
        with open_video(path) as video:
            whole = video.sound(0.0, 61.0)
            times = [0.0, 1.3, 4.0, 2.5, 40.0, 44.0, 59.7, 3.0, 58.0, 0.0]
            for t in times:
                first, last = round(t * RATE), round((t + 0.975) * RATE)
                part, expected = video.sound(t, t + 0.975), whole[first:last]
                off = np.abs(part - expected).max()
                assert off < (0.02 if suffix == "mp4" else 1e-3), (suffix, t, off)
            assert sum(len(wave) for _, wave in video._sound._buffer) < 2 * RATE
        assert np.abs(whole[RATE : 59 * RATE]).mean() > 0.1 and not whole[-RATE // 2 :].any()


def test_a_hole_in_the_track_stays_where_it_is(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width = pictures.height = 16
        pictures.pix_fmt = "yuv420p"
        sounds = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for _ in range(30):
            container.mux(pictures.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(pictures.encode(None))
        for start in (0.0, 1.5):
            for frame in sound_frames(tone(RATE, 0.5, 0.0, 0.5), RATE, "mono", start):
                container.mux(sounds.encode(frame))
    with open_video(path) as video:
        found = video.sound(0.0, 3.0)
    assert span(found[:RATE]) == pytest.approx((0.0, 0.5), abs=2e-3)
    assert span(found[RATE:]) == pytest.approx((0.5, 1.0), abs=2e-3)


def test_sound_files_and_what_is_none(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8_000, 2.0, 0.5, 1.0), 8_000)
    with open_sound(tmp_path / "a.wav") as sound:
        assert (sound.sample_rate, sound.channels, sound.duration) == (8_000, 1, 2.0)
        assert span(sound.read(0.0, 2.0)) == pytest.approx((0.5, 1.0), abs=1.5e-3)
    path = write_clip(tmp_path / "b.mkv", times=[0.3, 0.4], sound=tone(8_000, 2.0, 0.5, 1.0), rate=8_000)
    with open_sound(path) as sound:
        assert span(sound.read(0.0, 2.0)) == pytest.approx((0.2, 0.7), abs=2e-3) and sound.origin == Fraction(3, 10)
    with pytest.raises(UserError, match=r"c\.mp4: has no sound"):
        open_sound(write_clip(tmp_path / "c.mp4"))
    wave = tone(8_000, 1.0, 0.0, 1.0)
    wave[1000:1010], wave[2000] = np.nan, np.inf
    soundfile.write(tmp_path / "d.wav", wave, 8_000, subtype="FLOAT")
    with open_sound(tmp_path / "d.wav") as sound:
        found = sound.read(-0.5, 1.0)
        assert np.isfinite(found).all() and not found[: RATE // 2].any() and found[RATE // 2 :].any()
