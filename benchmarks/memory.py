"""Peak memory of a training step of a config's model, with and without gradient checkpointing, as a table.

    python benchmarks/memory.py [CONFIG] [--sizes 224 512] [--frames 5] [--json memory.json]

Each case is one step (forward, backward, AdamW) in a separate process; the peak is its resident set, the interpreter
and torch included. A case that leaves the machine less than `--keep` GB is stopped there, and the table shows it.
"""

import argparse
import inspect
import os
import threading
import time
from pathlib import Path
from typing import Any

from common import fresh, machine, title, write_json
from model import CHECKPOINTING, DEFAULT, measure

from avsmamba.config import load_config
from avsmamba.registry import MODELS


def available() -> float:
    """Return the GB that the system has available."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 / 1e9


def can_checkpoint(config: str) -> tuple[str, ...]:
    """List the parts of a config's model that can recompute their activations."""
    model = load_config(config).model
    present = [part for part in CHECKPOINTING if model.get(part)]
    return tuple(p for p in present if "grad_checkpointing" in inspect.signature(MODELS.get(model[p].type)).parameters)


def guarded(keep: float, *args: Any) -> dict[str, Any]:
    """Run `measure(*args)` in a process that ends itself before the system runs out of memory."""

    def guard() -> None:
        while available() > keep:
            time.sleep(0.05)
        os._exit(1)

    threading.Thread(target=guard, daemon=True).start()
    return measure(*args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=DEFAULT)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512], help="height and width, pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--keep", type=float, default=0.7, metavar="GB", help="memory that is left to the system")
    parser.add_argument("--json", help="file to write the rows to")
    args = parser.parse_args()
    about = machine()
    print(f"{title(about)}\n{args.config}, batch {args.batch}, {args.frames} frames")
    print(f"{'pixels':>6}  {'gradient checkpointing':34}  peak GB of a training step", flush=True)
    rows = []
    for size in args.sizes:
        for parts in ((), can_checkpoint(args.config)):
            free = available()
            row = {"config": args.config, "size": size, "grad_checkpointing": list(parts), "peak_GB": None}
            try:
                row = fresh(guarded, args.keep, args.config, True, args.batch, args.frames, size, 0, parts)
                peak = f"{row['peak_GB']:.2f}"
            except MemoryError:
                row["stopped_above_GB"] = free - args.keep
                peak = f"stopped: more than the {row['stopped_above_GB']:.1f} that were free"
            rows.append(row | {"batch": args.batch, "frames": args.frames})
            print(f"{size:6}  {', '.join(parts) or 'none':34}  {peak}", flush=True)
    if args.json:
        write_json(args.json, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
