"""Sounds that replace a clip's own: white noise, or the sound of another clip, if possible of nothing visible here."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from avsmamba.datasets.clip_table import Clip
from avsmamba.datasets.log_mel import SAMPLE_RATE, log_mel_patches
from avsmamba.datasets.readers import fit_patches


def white_noise(num_frames: int, rms: float, seed: int) -> Tensor:
    """Return `(T, 1, 96, 64)` patches of seeded white noise; full scale is 1."""
    wave = rms * np.random.default_rng(seed).standard_normal(num_frames * SAMPLE_RATE)
    return fit_patches(log_mel_patches(wave, SAMPLE_RATE), num_frames)


def derangement(size: int, seed: int) -> list[int]:
    """Return a random permutation without fixed points: one cycle through all (Sattolo, 1986)."""
    order = list(range(size))
    rng = np.random.default_rng(seed)
    for i in range(size - 1, 0, -1):
        j = int(rng.integers(i))
        order[i], order[j] = order[j], order[i]
    return order


def mismatched_clips(clips: Sequence[Clip], index: int) -> list[int]:
    """Return the indices of the clips whose sounds are known to be of nothing visible in clip `index`."""
    visible = clips[index].visible
    return [i for i, other in enumerate(clips) if visible and other.sounding and visible.isdisjoint(other.sounding)]


def pick_mismatched(clips: Sequence[Clip], index: int, seed: int) -> int:
    """Draw one of `mismatched_clips` by the seed; if there is none, any other clip."""
    indices = mismatched_clips(clips, index) or [i for i in range(len(clips)) if i != index]
    return indices[int(np.random.default_rng((seed, len(clips))).integers(len(indices)))]


def known_kinds(clips: Sequence[Clip]) -> str:
    """Return which kinds the table lists: 'visible' (all in view), 'category' (those that sound) or 'nothing'."""
    if not all(clip.sounding for clip in clips):
        return "nothing"
    return "visible" if all(clip.lists_visible for clip in clips) else "category"


def mismatch_summary(clips: Sequence[Clip]) -> dict[str, str | int]:
    """Return `known`, see `known_kinds`, and `clips_without`, the number of clips without `mismatched_clips`."""
    return {
        "known": known_kinds(clips),
        "clips_without": sum(not mismatched_clips(clips, i) for i in range(len(clips))),
    }
