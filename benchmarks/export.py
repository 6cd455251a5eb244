"""Time a model in torch and its exported files, each as a multiple of torch with our kernel.

    python benchmarks/export.py [CONFIG ...] [--sizes 96 192] [--frames 5] [--repeats 7] [--loop] [--cfg-options ...]
        [--json export.json]

Weights are random and pictures are noise: neither changes the time. All runs of one case take turns in one process,
with as many threads each; the table has the median of each, and its quotient with the first. `--loop`
adds torch without our kernel: the reference, a Python loop over the tokens, once a case. Files are exported to a
temporary folder; that takes minutes for large models.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import Stages, machine, spread, take_turns, timed, title, write_json

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import load_config, parse_options
from avsmamba.config.variants import config_name
from avsmamba.export.run import METADATA, ExportedModel
from avsmamba.export.write import WholeModel, example, metadata, one_clip, quiet, trace, write_onnx
from avsmamba.ops import multi_directional_scan, selective_scan

DEFAULT = "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml"


def files(
    config: str, options: list[str], frames: int, folder: Path
) -> tuple[torch.nn.Module, dict[str, ExportedModel]]:
    """Build a model of random weights, export it, and open the exported files."""
    cfg = load_config(config, parse_options(options))
    torch.manual_seed(0)
    whole = WholeModel(build_model(cfg.model)).eval()
    count = cfg.model.head.get("num_classes", 1)
    onnx, pt2 = folder / "model.onnx", folder / "model.pt2"
    with quiet():
        program = trace(whole, frames, config)
        about = metadata(whole.model, [str(i) for i in range(count)], config, frames, one_clip(program))
        torch.export.save(program, pt2, extra_files={METADATA: json.dumps(about)})
        write_onnx(program, onnx, about, config)
    threads = torch.get_num_threads()
    return whole, {"onnxruntime": ExportedModel(onnx, threads), "torch.export": ExportedModel(pt2, threads)}


@contextmanager
def without_kernel():
    """Run scans in plain torch."""
    with patch.object(selective_scan, "multi_directional_scan", partial(multi_directional_scan, backend="torch")):
        yield


def measure(whole: torch.nn.Module, opened: dict[str, ExportedModel], size: int, frames: int, args: Any) -> dict:
    """Measure one case: a clip of `frames` frames of `size` x `size` pixels."""
    clip = example((1, size, size), frames)
    tensors = [torch.from_numpy(clip[name]) for name in ("frames", "log_mel")]

    def ours() -> object:
        with torch.no_grad():
            return whole(*tensors)

    def loop() -> object:
        with without_kernel():
            return ours()

    calls: dict[str, Callable[[], object]] = {"torch, our kernel": ours}
    calls |= {name: partial(model, **clip) for name, model in opened.items()}
    if args.loop:
        calls["torch, reference loop"] = loop

    def stage(call: Callable[[], object]) -> Stages:
        return {"clip": timed(call)}

    slow = {"torch, reference loop"} & calls.keys()
    repeats = {name: 1 if name in slow else args.repeats for name in calls}
    times = take_turns({name: partial(stage, call) for name, call in calls.items()}, repeats, slow)
    found = {name: spread(t["clip"]) for name, t in times.items()}
    base = found["torch, our kernel"]["median"]
    return {"size": size, "frames": frames, "ms": found, "times": {k: v["median"] / base for k, v in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=[DEFAULT])
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 192], help="height and width, pixels")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--loop", action="store_true", help="time the plain torch reference too, once")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", help="file to write the rows to")
    args = parser.parse_args()
    about, rows = machine(), []
    print(title(about) + "\n\n| model | size | run | median, ms | times torch with our kernel |")
    print("| --- | ---: | --- | ---: | ---: |")
    for config in args.configs:
        with tempfile.TemporaryDirectory() as folder:
            whole, opened = files(config, args.cfg_options, args.frames, Path(folder))
            for size in args.sizes:
                row = {"config": config, **measure(whole, opened, size, args.frames, args)}
                rows.append(row)
                for name, ms in row["ms"].items():
                    cells = (config_name(config), size, name, f"{ms['median']:.1f}", f"{row['times'][name]:.2f}")
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if args.json:
        write_json(args.json, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
