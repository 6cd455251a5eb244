"""Log-mel patches against the formulas written out with numpy, one window at a time."""

import math

import numpy as np
import pytest
import torch

from avsmamba.datasets.log_mel import log_mel_patches, mel_weights, silent_patches


def slow_log_mel(wave):
    """VGGish's front end, window by window and band by band."""
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)])
    edges = [
        1127 * math.log(1 + 125 / 700) + i * 1127 * math.log((1 + 7500 / 700) / (1 + 125 / 700)) / 65 for i in range(66)
    ]
    rows = []
    for start in range(0, len(wave) - 400 + 1, 160):
        spectrum = np.abs(np.fft.rfft(wave[start : start + 400] * window, 512))
        row = []
        for b in range(64):
            low, mid, high = edges[b : b + 3]
            total = 0.0
            for i in range(1, 257):
                m = 1127 * math.log(1 + i * 16000 / 512 / 700)
                total += spectrum[i] * max(0.0, min((m - low) / (mid - low), (high - m) / (high - mid)))
            row.append(math.log(total + 0.01))
        rows.append(row)
    count = len(rows) // 96
    return np.array(rows[: count * 96]).reshape(count, 1, 96, 64)


def test_equals_the_formulas():
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.normal(size=16000 + 123) + 0.3 * np.sin(2 * np.pi * 440 * np.arange(16123) / 16000)
    got = log_mel_patches(wave, 16000)
    assert got.dtype == torch.float32 and got.shape == (1, 1, 96, 64)
    np.testing.assert_allclose(got.numpy(), slow_log_mel(wave), atol=1e-5)


@pytest.mark.parametrize(
    "samples, patches", [(0, 0), (399, 0), (400 + 160 * 95 - 1, 0), (400 + 160 * 95, 1), (80000, 5)]
)
def test_number_of_patches(samples, patches):
    assert log_mel_patches(np.zeros(samples), 16000).shape == (patches, 1, 96, 64)


def test_channels_are_averaged():
    stereo = np.random.default_rng(1).normal(size=(20000, 2))
    assert torch.equal(log_mel_patches(stereo, 16000), log_mel_patches(stereo.mean(1), 16000))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_stays_in_its_band(rate):
    def loudest(sample_rate):
        time = np.arange(2 * sample_rate) / sample_rate
        return log_mel_patches(np.sin(2 * np.pi * 1000 * time), sample_rate).mean((0, 1, 2)).argmax()

    assert loudest(rate) == loudest(16000)
    assert len(log_mel_patches(np.zeros(5 * rate), rate)) == 5


def test_silence():
    assert torch.equal(silent_patches(3), log_mel_patches(np.zeros(48000), 16000)[:1].expand(3, -1, -1, -1))


def test_each_band_has_weight_and_dc_has_none():
    weights = mel_weights()
    assert (weights.sum(0) > 0).all() and (weights[0] == 0).all() and weights.max() <= 1


@pytest.mark.parametrize(
    "wave, rate, match",
    [
        (np.zeros((2, 2, 2)), 16000, "waveform: expected"),
        (np.zeros((9, 0)), 16000, "waveform: expected"),
        (np.zeros(9), 0, "sample_rate"),
        (np.array([0.0, np.nan]), 16000, "not finite"),
    ],
)
def test_malformed(wave, rate, match):
    with pytest.raises(ValueError, match=match):
        log_mel_patches(wave, rate)
