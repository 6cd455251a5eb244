"""The released negatives of AVSBench-Robust (Li et al., arXiv 2502.00358), to measure how they differ from positives.

Its scripts compute the log-mel of the wrong sounds with librosa, while the real sounds keep VGGish's. This module
follows the description of those features and does not need librosa.
"""

from functools import cache
from math import gcd

import numpy as np
import torch
from torch import Tensor

from avsmamba.datasets.log_mel import NUM_MELS, PATCH_FRAMES

RATE, FFT_LENGTH, HOP = 22_050, 1024, 512
NOISE_RATE = 44_100
SMALLEST_POWER, RANGE_DB = 1e-10, 80.0


def librosa_patches(waveform: np.ndarray, sample_rate: int, num_frames: int) -> Tensor:
    """Compute the released features of a waveform, with another resampler (polyphase) than librosa's.

    Channels are averaged, resampled to 22.05 kHz, and cut or zero-padded to T seconds. For each second: power of the
    1024-point FFT of Hann windows every 512 samples, centred and zero-padded at both ends (44 windows); 64 Slaney mel
    bands from 0 to 11025 Hz; 10 log10, at least the loudest value - 80 dB; standardised unless constant; zero-padded to
    96 windows.

    Args:
        waveform: `(samples,)` or `(samples, channels)` in [-1, 1].
        sample_rate: Hz.
        num_frames: T.

    Returns:
        `(T, 1, 96, 64)` float32.
    """
    from scipy.signal import resample_poly

    wave = np.asarray(waveform, dtype=np.float64)
    wave = wave.mean(axis=1) if wave.ndim == 2 else wave
    divisor = gcd(RATE, sample_rate)
    if sample_rate != RATE:
        wave = resample_poly(wave, RATE // divisor, sample_rate // divisor)
    wave = wave[: num_frames * RATE]
    seconds = np.pad(wave, (0, num_frames * RATE - len(wave))).reshape(num_frames, RATE)
    patches = torch.zeros(num_frames, 1, PATCH_FRAMES, NUM_MELS)
    for patch, second in zip(patches, seconds, strict=True):
        values = torch.from_numpy(_standardised_decibels(second))
        patch[0, : len(values)] = values
    return patches


def released_noise(num_frames: int, seed: int) -> np.ndarray:
    """Return T seconds of the released "white noise" at `NOISE_RATE`: `(samples,)` in [-1, 1].

    Uniform float64 numbers whose bytes are read as 16-bit samples: every fourth sample holds sign and exponent and is
    far from uniform.
    """
    numbers = np.random.default_rng(seed).uniform(-1.0, 1.0, num_frames * NOISE_RATE // 4)
    return np.frombuffer(numbers.astype("<f8").tobytes(), "<i2") / 32768.0


def _standardised_decibels(second: np.ndarray) -> np.ndarray:
    """Return the `(44, 64)` log-mel of one second."""
    padded = np.pad(second, FFT_LENGTH // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, FFT_LENGTH)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_LENGTH) / FFT_LENGTH)
    power = np.abs(np.fft.rfft(windows * hann)) ** 2
    decibels = 10.0 * np.log10(np.maximum(SMALLEST_POWER, power @ slaney_mel_weights()))
    decibels = np.maximum(decibels, decibels.max() - RANGE_DB)
    spread = decibels.std()
    return (decibels - decibels.mean()) / spread if spread > 0 else decibels


@cache
def slaney_mel_weights() -> np.ndarray:
    """Return `(513, 64)` triangles of area 1 over Hz, with edges spaced linearly below 1 kHz, then logarithmically."""
    step, knee, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27
    highest = knee / step + np.log(RATE / 2 / knee) / log_step
    mels = np.linspace(0.0, highest, NUM_MELS + 2)
    edges = np.where(mels < knee / step, mels * step, knee * np.exp(log_step * (mels - knee / step)))
    bins = np.fft.rfftfreq(FFT_LENGTH, 1 / RATE)[:, None]
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0.0, np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)))
    return triangles * 2.0 / (upper - lower)
