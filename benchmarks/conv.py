"""Time the depthwise convolutions before the scans against torch's, in one run.

    python benchmarks/conv.py [--repeats 7] [--json conv.json]

Rows are those of the paper's model at 224 pixels (5 frames, E = 512, scales 1 to 4, and the causal one over the audio
tokens) and of the demo's (4 clips, E = 64, 24 x 24 to 3 x 3), each with SiLU. Inputs are channels-last tokens, the
first half of a projection, as in the blocks, and so are all outputs. torch runs on them twice: copied to
its contiguous layout, and as a `channels_last` view. The three take turns; the first turn is not
counted. Times are medians; after ± comes the distance from the first to the third quartile.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from avsmamba import ops
from avsmamba.utils import atomic_write

KINDS = {"3D": (3, 3, 3), "2D": (3, 3), "causal 1D": (4,)}


def cases() -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (name, kind, shape of the tokens) of each convolution."""
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    for model, batch, channels, sizes in (("224", 1, 512, (56, 28, 14, 7)), ("demo", 4, 64, (24, 12, 6, 3))):
        for kind in ("3D", "2D"):
            rows += [(f"{model}, {kind}, {s} x {s}", kind, (batch, 5, s, s, channels)) for s in sizes]
        rows.append((f"{model}, causal 1D", "causal 1D", (batch, 5, channels)))
    return rows


def torch_conv(x: Tensor, weight: Tensor, bias: Tensor, kind: str, copy: bool) -> Tensor:
    """Run a module of torch on the same tokens; the result has the tokens' layout."""
    maps = (x.flatten(0, 1) if kind == "2D" else x).movedim(-1, 1)
    maps = F.pad(maps, (weight.shape[2] - 1, 0)) if kind == "causal 1D" else maps
    conv = {"3D": F.conv3d, "2D": F.conv2d, "causal 1D": F.conv1d}[kind]
    padding = 0 if kind == "causal 1D" else 1
    y = conv(maps.contiguous() if copy else maps, weight, bias, padding=padding, groups=len(weight))
    return F.silu(y).movedim(1, -1).reshape(x.shape).contiguous()


def take_turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Return (median, distance of the quartiles) of each one's seconds; fast ones run several times a turn."""
    inner, times = {}, {name: [] for name in runs}
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        inner[name] = max(1, min(100, int(0.005 / (time.perf_counter() - start))))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(inner[name]):
                run()
            times[name].append((time.perf_counter() - start) / inner[name])
    quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
    return {name: (q[1], q[2] - q[0]) for name, q in quartiles.items()}


def measure(name: str, kind: str, shape: tuple[int, ...], repeats: int) -> dict:
    """Measure one row of the table."""
    kernel, channels = KINDS[kind], shape[-1]
    x = torch.randn(*shape[:-1], 2 * channels)[..., :channels].requires_grad_()
    weight = (torch.randn(channels, 1, *kernel) * 0.2).requires_grad_()
    bias = torch.randn(channels, requires_grad=True)
    leaves = (x, weight, bias)
    calls: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ops.depthwise_conv(x, weight, bias, "silu", causal=kind == "causal 1D"),
        "contiguous": lambda: torch_conv(x, weight, bias, kind, copy=True),
        "channels_last": lambda: torch_conv(x, weight, bias, kind, copy=False),
    }
    with torch.no_grad():
        outputs = {who: call() for who, call in calls.items()}
        for who, y in outputs.items():
            torch.testing.assert_close(y, outputs["ours"], atol=1e-4, rtol=1e-4, msg=lambda m, w=who: f"{w}: {m}")
        forward = take_turns(calls, repeats)
    graphs = {who: call() for who, call in calls.items()}
    dy = torch.randn(shape)

    def backward(y: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)

    backwards = take_turns({who: backward(y) for who, y in graphs.items()}, repeats)
    row: dict = {"conv": name, "shape": shape, "kernel": kernel}
    for what, times in (("forward", forward), ("backward", backwards)):
        for who, (median, spread) in times.items():
            row[f"{what}_{who}_ms"], row[f"{what}_{who}_spread_ms"] = median * 1e3, spread * 1e3
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", help="file to write the rows to")
    args = parser.parse_args()
    print(f"backend {ops.available_backends()[0]}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':24} {'ours, ms':>15}  contiguous  channels_last  {'| backward: ours':>16}  contiguous  channels_last")
    rows = []
    for case in cases():
        row = measure(*case, args.repeats)
        rows.append(row)
        text = f"{row['conv']:24}"
        for what in ("forward", "backward"):
            ours = row[f"{what}_ours_ms"]
            others = [row[f"{what}_{who}_ms"] for who in ("contiguous", "channels_last")]
            text += f" {ours:8.3f} ±{row[f'{what}_ours_spread_ms']:6.3f}"
            text += "".join(f" {t:9.3f} ({t / ours:4.1f} x)" for t in others)
        print(text, flush=True)
    if args.json:
        with atomic_write(args.json) as path:
            path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
