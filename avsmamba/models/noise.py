"""Seeded noise for methods whose prediction is random, and the mean of several predictions."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


@torch.compiler.disable  # the names are hashed by Python
def clip_noise(seed: int, names: Sequence[str | None], counts: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw standard normal noise for every frame of a batch of clips, on the CPU.

    The noise of a frame depends on the seed, its clip's name and its position in the clip only, so it is the same in
    any batch, with any padding and in any process.

    Args:
        seed: at least 0.
        names: of the B clips; clips without one (None) share their noise.
        counts: frames of each clip.
        shape: of a frame's noise. A shape that is greater in its first axis begins with the same numbers.

    Returns:
        `(N, *shape)` float32 for all N frames, clip by clip.
    """
    rows = [
        np.random.default_rng([seed, key, t]).standard_normal(tuple(shape), np.float32)
        for key, count in zip(map(name_key, names), counts, strict=True)
        for t in range(count)
    ]
    return torch.from_numpy(np.stack(rows))


def name_key(name: str | None) -> int:
    """Return a number of 64 bits for a clip's name."""
    return int.from_bytes(hashlib.sha256((name or "").encode()).digest()[:8], "big")


def mean_prediction(logits: Sequence[Tensor]) -> Tensor:
    """Return the logits whose probabilities are the mean of several predictions' `(..., N_class, h, w)`.

    The sigmoid of one class; with several classes the softmax, and the result is the logarithm of its mean.
    """
    stacked = torch.stack(list(logits)).float()
    if stacked.shape[-3] == 1:
        here, elsewhere = (torch.nn.functional.logsigmoid(x).logsumexp(0) for x in (stacked, -stacked))
        return here - elsewhere
    return stacked.log_softmax(-3).logsumexp(0) - np.log(len(stacked))
