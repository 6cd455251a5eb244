"""Time and memory against the number of frames: linear, as a table and a plot.

    python benchmarks/growth.py [CONFIG] [--frames 5 10 20 40 80] [--size 96] [--json growth.json] [--plot growth.png]

Two things grow: the scan of a Temporal Mamba block (E = 512, K = 8, N = 16, one map of 28 x 28 a frame), and the whole
model of a config, by default the small one, on one clip. `inference` is a forward pass without a graph, `training`
forward and backward. Times are medians; memory is the growth of the resident set in a pass, in a separate process: for
the scan with its tensors, for the model without its weights. The slope is that of a line through the logarithms: 1 is
linear growth.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import MB, extra_memory, fresh, machine, timed, title, write_json
from matplotlib.figure import Figure
from model import build
from scan_shapes import Case

from avsmamba import ops
from avsmamba.structures import AVSDataSample
from avsmamba.utils import atomic_write

SMALL = "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml"
PASSES = ("inference", "training")


def scan_passes(frames: int, side: int, channels: int) -> dict[str, Callable[[], object]]:
    """Return the two passes of the scan; each builds its own tensors the first time."""
    case = Case("growth", 8 * side, "temporal", ((side, side),), 16, channels, frames)
    tensors: list[torch.Tensor] = []

    def scan() -> torch.Tensor:
        if not tensors:
            tensors.extend(case.inputs())
        return ops.multi_directional_scan(*tensors, case.order, case.out)

    def inference() -> None:
        with torch.no_grad():
            scan()

    def training() -> None:
        y = scan()
        torch.autograd.grad(y, tensors, torch.ones_like(y))

    return {"inference": inference, "training": training}


def model_passes(frames: int, config: str, size: int) -> dict[str, Callable[[], object]]:
    """Return the two passes of a config's model."""
    model = build(config)
    clip, log_mel = torch.randn(1, frames, 3, size, size), torch.randn(1, frames, 1, 96, 64)
    flags = torch.ones(frames, dtype=torch.bool)
    masks = torch.randint(0, 2, (frames, size, size), dtype=torch.uint8)
    sample = AVSDataSample(gt_masks=masks, gt_temporal_mask_flag=flags, vid_temporal_mask_flag=flags)

    def inference() -> None:
        with torch.no_grad():
            model.eval()(clip, log_mel)

    def training() -> None:
        sum(model.train()(clip, log_mel, [sample], mode="loss").values()).backward()
        model.zero_grad()

    return {"inference": inference, "training": training}


def measure(what: str, name: str, repeats: int, frames: int, *args: Any) -> dict[str, float]:
    """Measure seconds and bytes of one pass in a fresh process, after a first pass over two frames."""
    make = {"scan": scan_passes, "model": model_passes}[what]
    make(2, *args)[name]()
    run = make(frames, *args)[name]
    grown, _ = extra_memory(run)
    return {"seconds": statistics.median(timed(run) for _ in range(repeats)), "bytes": grown}


def slope(frames: list[int], values: list[float]) -> float:
    """Return the slope of the line through the logarithms."""
    return float(np.polyfit(np.log(frames), np.log(np.maximum(values, 1e-9)), 1)[0])


def plot(path: str, frames: list[int], curves: list[dict[str, Any]]) -> None:
    """Draw one panel for the time, one for the memory, both axes logarithmic; dotted lines have slope 1."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, (key, unit, scale) in zip(
        figure.subplots(1, 2), (("seconds", "time, s", 1.0), ("bytes", "memory, MB", MB)), strict=True
    ):
        for i, curve in enumerate(curves):
            values = np.array(curve[key]) / scale
            label = f"{curve['what']}, {curve['pass']} (slope {curve[f'{key}_slope']:.2f})"
            axes.plot(frames, values, "o-" if curve["what"] == "scan" else "s--", color=f"C{i}", label=label)
            axes.plot(frames, values[-1] * np.array(frames) / frames[-1], ":", color=f"C{i}", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="frames T", ylabel=unit)
        axes.set_xticks(frames, [str(t) for t in frames])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=SMALL)
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    parser.add_argument("--size", type=int, default=96, help="height and width of the model's frames, pixels")
    parser.add_argument("--side", type=int, default=28, help="height and width of the scan's map, tokens")
    parser.add_argument("--channels", type=int, default=512, help="E of the scan")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--plot", help="picture to write, by its suffix: .png, .svg or .pdf")
    args = parser.parse_args()
    if len(set(args.frames)) < 2:
        parser.error("--frames: a slope needs two numbers of frames")
    about, frames = machine(), sorted(set(args.frames))
    print(f"{title(about)}\nscan: {args.side} x {args.side}, E = {args.channels}; model: {args.config}, {args.size} px")
    print(f"{'':18}" + "".join(f"{f'T = {t}':>18}" for t in frames) + "   slope of time, memory")
    curves = []
    for what, shape in (("scan", (args.side, args.channels)), ("model", (args.config, args.size))):
        for name in PASSES:
            found = [fresh(measure, what, name, args.repeats, t, *shape) for t in frames]
            curve: dict[str, Any] = {"what": what, "pass": name}
            for key in ("seconds", "bytes"):
                curve[key] = [f[key] for f in found]
                curve[f"{key}_slope"] = slope(frames, curve[key])
            curves.append(curve)
            cells = "".join(f"{f['seconds']:8.3f} s {f['bytes'] / MB:5.0f} MB" for f in found)
            print(
                f"{what + ', ' + name:18}{cells}   {curve['seconds_slope']:.2f}, {curve['bytes_slope']:.2f}", flush=True
            )
    if args.json:
        write_json(args.json, {"machine": about, "frames": frames, "config": args.config, "curves": curves})
    if args.plot:
        plot(args.plot, frames, curves)


if __name__ == "__main__":
    main()
