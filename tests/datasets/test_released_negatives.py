"""The released negatives' features against the formulas written out, and against librosa if it is installed."""

import math

import numpy as np
import pytest
import torch

from avsmamba.datasets import AVSBenchAVSS, AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.datasets.readers import read_wav
from avsmamba.datasets.released_negatives import (
    NOISE_RATE,
    RATE,
    librosa_patches,
    released_noise,
    slaney_mel_weights,
)
from avsmamba.utils import UserError
from tests.datasets.trees import write_avsbench, write_avss


def sound(seconds=2, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * 440 * time) + 0.05 * np.random.default_rng(0).normal(size=len(time))


def hertz_of_mel(mel):
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def slow_patch(second):
    """The released features of one second, window by window and band by band."""
    top = 15 + 27 * math.log(11025 / 1000) / math.log(6.4)
    edges = [hertz_of_mel(i * top / 65) for i in range(66)]
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 1024) for n in range(1024)])
    padded, rows = np.concatenate([np.zeros(512), second, np.zeros(512)]), []
    for start in range(0, len(padded) - 1024 + 1, 512):
        power = np.abs(np.fft.rfft(padded[start : start + 1024] * hann)) ** 2
        row = []
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for i in range(513):
                f = i * RATE / 1024
                total += power[i] * max(0.0, min((f - low) / (mid - low), (high - f) / (high - mid))) * 2 / (high - low)
            row.append(10 * math.log10(max(1e-10, total)))
        rows.append(row)
    values = np.array(rows)
    values = np.maximum(values, values.max() - 80)
    result = np.zeros((96, 64))
    result[: len(values)] = (values - values.mean()) / values.std()
    return result


def test_equals_the_formulas():
    wave = sound()
    got = librosa_patches(wave, RATE, 2)
    assert got.dtype == torch.float32 and got.shape == (2, 1, 96, 64)
    for t in range(2):
        np.testing.assert_allclose(got[t, 0].numpy(), slow_patch(wave[t * RATE : (t + 1) * RATE]), atol=1e-5)
    assert not got[:, :, 44:].any() and got[:, :, :44].mean((1, 2, 3)).abs().max() < 1e-5
    # 80 dB below the loudest value: a click followed by silence.
    click = np.zeros(RATE)
    click[5000] = 1
    np.testing.assert_allclose(librosa_patches(click, RATE, 1)[0, 0].numpy(), slow_patch(click), atol=1e-5)


def test_equals_librosa():
    librosa = pytest.importorskip("librosa")
    wave = sound()
    np.testing.assert_allclose(
        slaney_mel_weights().T, librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=64), atol=1e-7, rtol=1e-4
    )
    for t, patch in enumerate(librosa_patches(wave, RATE, 2)[:, 0]):
        power = librosa.feature.melspectrogram(
            y=wave[t * RATE : (t + 1) * RATE], sr=RATE, n_mels=64, n_fft=1024, hop_length=512
        )
        expected = librosa.power_to_db(power)
        expected = (expected - expected.mean()) / expected.std()
        np.testing.assert_allclose(patch[:44].numpy(), expected.T, atol=1e-3)


def test_length_channels_and_rate():
    wave = sound(2.5)
    whole = librosa_patches(wave, RATE, 3)
    assert torch.equal(librosa_patches(wave, RATE, 2), whole[:2]), "excess sound is cut off"
    assert torch.equal(librosa_patches(np.append(wave, np.zeros(RATE // 2)), RATE, 3), whole), "zeros at the end"
    assert torch.equal(librosa_patches(np.stack([wave, wave], 1), RATE, 3), whole)
    time = np.arange(2 * 16000) / 16000
    other = librosa_patches(np.sin(2 * np.pi * 1000 * time), 16000, 2)[:, :, 2:42].mean((0, 1, 2))
    same = librosa_patches(np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE), RATE, 2)[:, :, 2:42].mean((0, 1, 2))
    assert other.argmax() == same.argmax()


def test_silence_is_a_block_of_minus_100_decibels():
    patches = librosa_patches(np.zeros(0), RATE, 5)
    assert (patches[:, :, :44] == -100).all() and not patches[:, :, 44:].any()


def test_noise_holds_the_bytes_of_floats():
    noise = released_noise(2, 3)
    assert noise.shape == (2 * NOISE_RATE,) and np.abs(noise).max() <= 1
    numbers = (noise * 32768).astype("<i2").view("<f8")
    expected = np.random.default_rng(3).uniform(-1, 1, len(numbers))
    np.testing.assert_array_equal(numbers, expected)
    # The fourth sample of each number holds its exponent: half of the numbers have the same one.
    assert len(np.unique(noise[3::4])) < 0.05 * len(np.unique(noise[::4]))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("released")
    for subset in ("s4", "ms3"):
        write_avsbench(root, subset)
    return write_avss(root)


@pytest.mark.parametrize("cls", [AVSBenchS4, AVSBenchMS3, AVSBenchAVSS])
def test_all_wrong_sounds_have_the_released_features(trees, cls):
    count = 10 if cls is AVSBenchAVSS else 5
    arguments = {"data_root": trees, "split": "test", "negative_features": "librosa"}
    for audio in ("silence", "noise", "swap", "shuffle"):
        patches = cls(**arguments, audio=audio)[0]["log_mel"]
        assert patches.shape == (count, 1, 96, 64) and not patches[:, :, 44:].any() and patches[0, :, :44].any()
    real = cls(**arguments)
    assert torch.equal(real[0]["log_mel"], cls(trees, "test")[0]["log_mel"]), "a clip's own sound stays VGGish's"


def test_negatives_in_training_have_them_too(trees):
    data = AVSBenchMS3(trees, "train", negative_audio_prob=1.0, negative_audio=["noise"], negative_features="librosa")
    assert not data[0]["log_mel"][:, :, 44:].any()


@pytest.mark.parametrize("cls", [AVSBenchS4, AVSBenchMS3, AVSBenchAVSS])
def test_unknown_names(trees, cls):
    with pytest.raises(UserError, match="negative_features: expected one of vggish, librosa, got 'mfcc'"):
        cls(trees, "test", negative_features="mfcc")
    with pytest.raises(UserError, match="log_mel_from: expected one of file, wav, got 'pkl'"):
        cls(trees, "test", log_mel_from="pkl")


def test_computed_log_mel(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("avsmamba.datasets.avsbench.print_log", lambda text, *_: said.append(text))
    write_avsbench(tmp_path, "ms3", {"test": 3})
    data = AVSBenchMS3(tmp_path, "test", log_mel_from="wav")
    path = data.log_mel_path(data.clips[0])
    torch.save(torch.ones(5, 1, 96, 64), path)
    expected = log_mel_patches(*read_wav(data.wav_path(data.clips[0])))
    assert torch.equal(data[0]["log_mel"], expected) and said == []
    assert (AVSBenchMS3(tmp_path, "test")[0]["log_mel"] == 1).all()
    data.wav_path(data.clips[0]).unlink()
    assert (
        AVSBenchMS3(tmp_path, "test", log_mel_from="wav")[0]["log_mel"] == 1
    ).all() and data.clips_without_wav() == 1
    assert len(said) == 1 and "1 of 3 clips of split 'test' have no wav: their log-mel files are used" in said[0]
    AVSBenchMS3(tmp_path, "test", log_mel_from="wav", audio="noise")
    assert len(said) == 1, "no file is read"
