"""Measure the costs of a clip's inference by resolution: parameters, operations, peak memory and time (Fig. 10).

Each case runs in its own process, so that its peak memory is its own.
"""

import json
import multiprocessing
import re
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import load_config, parse_options
from avsmamba.config.variants import config_name
from avsmamba.markdown import table
from avsmamba.reports.complexity_plot import draw_complexity
from avsmamba.utils import UserError, atomic_write


def complexity(
    configs: Sequence[str],
    sizes: Sequence[int],
    out: str | Path,
    frames: int = 5,
    batch: int = 1,
    repeats: int = 3,
    device: str | None = None,
    options: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Measure models, print a table and write `complexity.json`, `complexity.md` and `complexity.png`.

    Args:
        configs: YAML files.
        sizes: heights and widths of the frames, pixels; multiples of 32.
        out: folder for the three files.
        frames: of a clip.
        batch: number of clips.
        repeats: timed runs after one that is not timed; the median is reported.
        device: 'cpu' or 'cuda'; default: the GPU if there is one.
        options: `key=value` words that override each config.

    Returns:
        the content of `complexity.json`, see `measure`.

    Raises:
        UserError: if an argument or a config is faulty.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"--device: expected cpu, or cuda if there is a GPU, got {device!r}")
    for name, number in (("--frames", frames), ("--batch", batch), ("--repeats", repeats)):
        if number < 1:
            raise UserError(f"{name}: expected at least 1, got {number}")
    for size in sizes:
        if size < 32 or size % 32:
            raise UserError(f"--sizes: expected multiples of 32 pixels, got {size}")
    changes = parse_options(options)
    for config in configs:
        load_config(config, changes)  # report a faulty config before measuring the others
    labels = short_names(configs)
    rows = []
    for config, label in zip(configs, labels, strict=True):
        for size in sizes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (config, size, frames, batch, repeats, device, changes))
            rows.append({"model": label, **row})
            print(f"{label} at {size}: {row['seconds']:.2f} s, peak {row['peak_GB']:.2f} GB")
    text = report(rows)
    print(text)
    folder = Path(out)
    for name, content in (("complexity.json", json.dumps(rows, indent=2)), ("complexity.md", text)):
        with atomic_write(folder / name) as path:
            path.write_text(content + "\n", encoding="utf-8")
    with atomic_write(folder / "complexity.png") as path:
        draw_complexity(rows, path)
    print(f"written to {folder}: complexity.json, complexity.md, complexity.png")
    return rows


def short_names(configs: Sequence[str]) -> list[str]:
    """Return the names of configs, without data set and size at their end if these short names all differ."""
    stems = [config_name(config) for config in configs]
    short = [re.sub(r"_(s4|ms3|avss)(_\d+)?$", "", stem) for stem in stems]
    return short if len(set(short)) == len(short) else stems


def measure(
    config: str, size: int, frames: int, batch: int, repeats: int, device: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a model with random weights on noise; to be called in a new process.

    Returns:
        numbers of `parameters` and `backbone_parameters`; `GFLOP` of a batch (a multiply-add counts two); `seconds`
        (median) and `spread` (longest minus shortest) of a batch; `peak_GB` (1e9 bytes): on the GPU of torch's tensors,
        on the CPU of the process, which had `before_GB` (interpreter and torch) before the model was built.
    """
    cfg = load_config(config, options)
    before = memory(device)
    torch.manual_seed(0)
    model = build_model(cfg.model).eval().to(device)
    clip = torch.randn(batch, frames, 3, size, size, device=device)
    log_mel = torch.randn(batch, frames, 1, 96, 64, device=device)

    def infer() -> float:
        start = time.perf_counter()
        model(clip, log_mel)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.inference_mode():
        infer()
        peak = memory(device)
        seconds = [infer() for _ in range(repeats)]
        with FlopCounterMode(display=False) as counter:
            model(clip, log_mel)
    return {
        "config": str(config),
        "size": size,
        "frames": frames,
        "batch": batch,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "parameters": count(model),
        "backbone_parameters": count(model.backbone),
        "GFLOP": counter.get_total_flops() / 1e9,
        "seconds": statistics.median(seconds),
        "spread": max(seconds) - min(seconds),
        "peak_GB": peak,
        "before_GB": before,
    }


def count(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def memory(device: str) -> float:
    """Return the peak memory so far, in 1e9 bytes: torch's on the GPU, else the resident set of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    # ru_maxrss may include the process that started this one; Linux's VmHWM does not.
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    if found:
        return int(found[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table with an explanation."""
    first = rows[0]
    head = ("model", "size", "parameters, M", "of them backbone, M", "GFLOP", "peak memory, GB", "seconds")
    cells = [
        (
            row["model"],
            row["size"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['backbone_parameters'] / 1e6:.2f}",
            f"{row['GFLOP']:.1f}",
            f"{row['peak_GB']:.2f}",
            f"{row['seconds']:.3f} ± {row['spread'] / 2:.3f}",
        )
        for row in rows
    ]
    where = f"of the process, of which {first['before_GB']:.2f} GB are the interpreter and torch"
    if not first["before_GB"]:
        where = "of torch's tensors on the GPU"
    clip = f"{first['batch']} clip{'s' * (first['batch'] > 1)} of {first['frames']} frames"
    return f"""{table(head, cells, "lrrrrrr")}

Inference of {clip}, float32, {first["device"]}, torch {first["torch"]}. A multiply-add
counts two operations; normalisations and activations count none. Peak memory is that
{where}. Seconds: median, and half of longest minus shortest."""
