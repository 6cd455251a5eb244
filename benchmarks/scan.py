"""Time the scan at the model's own shapes against plain torch, in one run.

    python benchmarks/scan.py [--size 224] [--repeats 5] [--json scan.json]

Rows are the scans of one clip of five frames at `--size` pixels (E = 512, R = 16, N = 16, as in the paper's model).
`updates` counts state updates, L x E x K x N. The plain torch reference is timed on the first 1/32 of the tokens, since
its time grows linearly with them and it is far too slow for the whole; the ratio is per token.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from avsmamba import ops
from avsmamba.utils import atomic_write

E, R, N, T = 512, 16, 16, 5


def cases(size: int) -> list[tuple[str, int, torch.Tensor, tuple[int, int] | None]]:
    """(name, batch, order, out) of each scan of the model."""
    maps = [(size // s, size // s) for s in (4, 8, 16, 32)]
    (h1, w1), (h2, w2) = maps[0], maps[1]
    return [
        ("VSS, scales 2-4", T, ops.cross_scan_2d(maps[1:]), None),
        ("Temporal Mamba, scales 2-4", 1, ops.cross_scan_3d(T, maps[1:], 8), None),
        ("V2A frame, scale 2", T, ops.v2a_frame(h2, w2), (h2 * w2, 1)),
        ("V2A temporal, scale 2", 1, ops.v2a_temporal(T, h2, w2), (T * h2 * w2, T)),
        ("A2V, scale 1", 1, ops.a2v(T, h1, w1), (T, T * h1 * w1)),
        ("Temporal Mamba, scale 1", 1, ops.cross_scan_3d(T, maps[:1], 8), None),
    ]


def inputs(batch: int, length: int, directions: int) -> list[torch.Tensor]:
    """Random tensors of a scan, as the model's blocks make them."""
    projected = torch.randn(batch, length, directions, R + 2 * N)
    return [
        torch.randn(batch, length, E).requires_grad_(),
        *projected.split([R, N, N], dim=-1),
        -torch.rand(directions, E, N) * N,
        torch.ones(directions, E),
        torch.randn(directions, E, R) * R**-0.5,
        torch.randn(directions, E) - 4,
    ]


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """Times of `repeats` runs after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def measure(name: str, batch: int, order: torch.Tensor, out: tuple[int, int] | None, repeats: int) -> dict:
    """One row of the table."""
    directions, length = order.shape
    tensors = inputs(batch, length, directions)
    with torch.no_grad():
        forward = seconds(lambda: ops.multi_directional_scan(*tensors, order, out), repeats)
    y = ops.multi_directional_scan(*tensors, order, out)
    dy = torch.randn_like(y)
    backward = seconds(lambda: torch.autograd.grad(y, tensors[:1], dy, retain_graph=True), repeats)
    part = max(16, length // 32)
    short = [t[:, :part].detach() if i < 4 else t for i, t in enumerate(tensors)]
    natural = torch.arange(part, dtype=torch.int32).expand(directions, -1).contiguous()
    with torch.no_grad():
        plain = seconds(lambda: ops.multi_directional_scan(*short, natural, backend="torch"), 1)
    updates = batch * length * directions * E * N
    f, b = statistics.median(forward), statistics.median(backward)
    return {
        "scan": name,
        "L": length,
        "K": directions,
        "batch": batch,
        "forward_ms": f * 1e3,
        "forward_spread_ms": (max(forward) - min(forward)) * 1e3,
        "forward_updates_per_s": updates / f,
        "backward_ms": b * 1e3,
        "torch_over_ours": statistics.median(plain) / part * length / f,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="height and width of the frames, pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="file to write the rows to")
    args = parser.parse_args()
    print(f"backend {ops.available_backends()[0]}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'scan':28} {'L':>6}  K  b       forward ms  G updates/s  backward ms  x torch")
    rows = []
    for case in cases(args.size):
        row = measure(*case, args.repeats)
        rows.append(row)
        print(
            f"{row['scan']:28} {row['L']:6} {row['K']:2} {row['batch']:2} "
            f"{row['forward_ms']:9.2f} ±{row['forward_spread_ms']:5.2f} {row['forward_updates_per_s'] / 1e9:12.2f} "
            f"{row['backward_ms']:12.2f} {row['torch_over_ours']:8.0f}"
        )
    if args.json:
        with atomic_write(args.json) as path:
            path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
