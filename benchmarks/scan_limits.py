"""The two limits of a scan on this machine: the bandwidth of a copy, and the recurrence's own peak on data in cache."""

import time

import torch
from common import timed
from scan_shapes import Case

from avsmamba import ops

COPY_BYTES = 256 << 20


def copy_bandwidth(repeats: int = 5) -> float:
    """Bytes a second, read and written ones counted, of torch's copy of a buffer far larger than the caches: the best
    of `repeats`."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source).copy_(source)
    return 2 * COPY_BYTES / min(timed(lambda: target.copy_(source)) for _ in range(repeats))


def has_peak_operator() -> bool:
    """Whether the extension offers its own peak: its arithmetic alone on data in L1."""
    return hasattr(torch.ops.avsmamba_cpu, "peak") if "cpu" in ops.available_backends() else False


def peak_source() -> str:
    """Where `peak_updates_per_second` comes from."""
    if has_peak_operator():
        return "the kernel's own arithmetic on data in L1 (avsmamba_cpu::peak)"
    return "the operator itself on scans that fit into L2 (best of several), so it holds the gather and the call too"


def peak_updates_per_second(states: int, backward: bool, repeats: int = 5) -> float:
    """State updates a second of all threads together, the best of `repeats`; a backward's remade states are not
    counted."""
    if has_peak_operator():
        return max(_peak_operator(states, backward) for _ in range(repeats))
    shapes = [(64, 64), (128, 64), (256, 64), (64, 128)]
    return max(_small_scan(states, backward, length, channels, repeats) for length, channels in shapes)


def _peak_operator(states: int, backward: bool) -> float:
    rounds, seconds, updates = 1, 0.0, 0
    while seconds < 0.02:
        rounds *= 4
        start = time.perf_counter()
        updates = int(torch.ops.avsmamba_cpu.peak(states, backward, rounds))
        seconds = time.perf_counter() - start
    return updates / seconds


def _small_scan(states: int, backward: bool, length: int, channels: int, repeats: int) -> float:
    case = Case("small", 0, "vss", ((8, length // 8),), states, channels, frames=torch.get_num_threads())
    tensors, order = [t.detach() for t in case.inputs()], case.order
    dy = torch.randn_like(tensors[0])

    def run() -> None:
        for _ in range(10):
            if backward:
                torch.ops.avsmamba.multi_directional_scan_backward(dy, *tensors, order, *case.out)
            else:
                torch.ops.avsmamba.multi_directional_scan(*tensors, order, *case.out)

    run()
    return 10 * case.updates / min(timed(run) for _ in range(repeats))
