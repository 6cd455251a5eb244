"""The two limits of a scan on this machine: a copy's bandwidth, and the peak of a tile's arithmetic on cached data."""

import time

import torch
from common import timed

import avsmamba.ops  # noqa: F401  (it loads the kernels)

COPY_BYTES = 256 << 20


def copy_bandwidth(repeats: int = 5) -> float:
    """Measure bytes a second, read and written, of torch's copy of a buffer far larger than the caches: the best of
    `repeats`."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source).copy_(source)
    return 2 * COPY_BYTES / min(timed(lambda: target.copy_(source)) for _ in range(repeats))


def peak_updates_per_second(states: int, rank: int, backward: bool, repeats: int = 5) -> float:
    """Measure state updates a second of all threads together, the best of `repeats`, of the CPU kernel's arithmetic on
    one tile of tokens in L1: nothing is gathered, stored or summed over directions. States that a backward recomputes
    are not counted.

    Args:
        rank: R: delta's low-rank product and softplus belong to it, and their gradients; 0: the recurrence alone.
    """
    return max(_once(states, rank, backward) for _ in range(repeats))


def _once(states: int, rank: int, backward: bool) -> float:
    rounds, seconds, updates = 1, 0.0, 0
    while seconds < 0.02:
        rounds *= 4
        start = time.perf_counter()
        updates = int(torch.ops.avsmamba_cpu.peak(states, rank, backward, rounds))
        seconds = time.perf_counter() - start
    return updates / seconds
