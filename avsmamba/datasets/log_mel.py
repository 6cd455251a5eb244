"""Log-mel patches, the input of VGGish: one `(96, 64)` patch per 0.96 s of sound (Hershey et al., 2017)."""

from functools import cache
from math import gcd

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT_LENGTH = 400, 160, 512  # 25 ms every 10 ms; the next power of two
PATCH_FRAMES, NUM_MELS = 96, 64
MEL_RANGE = (125.0, 7500.0)
LOG_OFFSET = 0.01


def log_mel_patches(waveform: np.ndarray, sample_rate: int) -> Tensor:
    """Compute the log-mel patches of a waveform.

    Channels are averaged and resampled to 16 kHz (polyphase filter), then: magnitude of the 512-point FFT of 25 ms Hann
    windows every 10 ms, 64 HTK mel bands from 125 to 7500 Hz, log(x + 0.01), split into patches of 96 windows without
    overlap. An incomplete last patch is dropped.

    Args:
        waveform: `(samples,)` or `(samples, channels)` in [-1, 1].
        sample_rate: Hz.

    Returns:
        `(P, 1, 96, 64)` float32; P may be 0 for less than 0.975 s.

    Raises:
        ValueError: if the waveform has another number of axes, is not finite, or the rate is not positive.
    """
    mono = torch.from_numpy(to_mono(waveform, sample_rate))
    if len(mono) < WINDOW:
        return torch.zeros(0, 1, PATCH_FRAMES, NUM_MELS)
    windows = mono.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    magnitude = torch.fft.rfft(windows, n=FFT_LENGTH).abs()
    log_mel = torch.log(magnitude @ mel_weights() + LOG_OFFSET).float()
    count = len(log_mel) // PATCH_FRAMES
    return log_mel[: count * PATCH_FRAMES].view(count, 1, PATCH_FRAMES, NUM_MELS)


def to_mono(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the mean of the channels at 16 kHz, `(samples,)` float64; arguments and errors as `log_mel_patches`."""
    wave = np.asarray(waveform, dtype=np.float64)
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and not wave.shape[1]):
        raise ValueError(f"waveform: expected (samples,) or (samples, channels), got {wave.shape}")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate: expected a positive number of Hz, got {sample_rate}")
    if not np.isfinite(wave).all():
        raise ValueError("waveform: holds values that are not finite")
    return resample(wave.mean(axis=1) if wave.ndim == 2 else wave, sample_rate)


def silent_patches(num_frames: int) -> Tensor:
    """Return the `(T, 1, 96, 64)` patches of digital silence, log(0.01) everywhere."""
    return torch.full((num_frames, 1, PATCH_FRAMES, NUM_MELS), float(np.log(LOG_OFFSET)))


def resample(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample mono `(samples,)` from `sample_rate` Hz to 16 kHz."""
    if sample_rate == SAMPLE_RATE or not len(wave):
        return wave
    from scipy.signal import resample_poly

    divisor = gcd(SAMPLE_RATE, int(sample_rate))
    return resample_poly(wave, SAMPLE_RATE // divisor, int(sample_rate) // divisor)


@cache
def mel_weights() -> Tensor:
    """Return `(257, 64)` float64 triangular weights, linear in mel = 1127 ln(1 + f / 700); the bin at 0 Hz has none."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    bins = mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT_LENGTH // 2 + 1))[:, None]
    lowest, highest = mel(np.array(MEL_RANGE))
    edges = np.linspace(lowest, highest, NUM_MELS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)))
    weights[0] = 0.0
    return torch.from_numpy(weights)
