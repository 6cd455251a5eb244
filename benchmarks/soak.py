"""A long training, watched from outside: memory, threads and files over time, and what is left at its end.

    python benchmarks/soak.py [CONFIG] [--minutes 120] [--iterations N] [--work-dir DIR] [--json FILE] [-- OPTIONS]

The training is a process of its own, with a folder of temporary files of its own. Every 10 seconds the proportional
set sizes (PSS, Linux) of it and its workers are added up, and written to `samples.jsonl` in the work dir. Not counted
are the first tenth of the time, and what comes before the end of the second validation with its check of listening:
each begins with something that stays, as the workers of the validation. The rest is divided into windows of 10 minutes,
and the growth is from the median of the first to that of the last. After the minutes, or the iterations if they come
first, the training is interrupted, as Ctrl-C does; temporary files, hidden files of the work dir and shared memory are
listed. OPTIONS are `avsmamba train`'s.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import MB, machine, write_json

CONFIG = "configs/avs_mamba/avs_mamba_tiny_ms3_shapes_hard.yaml"
VALIDATION = 250  # iterations
OPTIONS = (
    "train_cfg.max_iters=10000000",
    f"train_cfg.val_interval={VALIDATION}",
    "default_hooks.checkpoint.interval=100",
    "custom_hooks=[{type: ListeningCheck, interval: 2, num_clips: 16}]",
)
SHARED = Path("/dev/shm")
EVERY, WINDOW = 10.0, 600.0  # seconds


def tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [root]
    for process in found:
        for listed in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, _text(listed).split())
    return found


def sample(root: int) -> dict[str, float]:
    """Return memory in MB, and numbers of processes, threads and open files, of a process and its descendants."""
    processes = tree(root)
    sizes = [re.search(r"^Pss:\s+(\d+) kB", _text(Path(f"/proc/{p}/smaps_rollup")), re.MULTILINE) for p in processes]
    pss = [int(size[1]) * 1024 / MB for size in sizes if size]
    return {
        "memory": sum(pss),
        "training": pss[0] if pss else 0.0,
        "processes": len(processes),
        "threads": sum(len(_names(Path(f"/proc/{p}/task"))) for p in processes),
        "open_files": len(_names(Path(f"/proc/{root}/fd"))),
    }


def windows(samples: list[dict[str, float]], width: float = WINDOW) -> list[dict[str, float]]:
    """Return the medians of each full window of `width` seconds, after the first tenth and the second validation."""
    end = samples[-1]["seconds"]
    start = max(end / 10, next((s["seconds"] for s in samples if s["iterations"] > 2 * VALIDATION), end))
    result = []
    for number in range(int((end - start) // width)):
        low = start + number * width
        part = [s for s in samples if low <= s["seconds"] < low + width]
        result.append({name: statistics.median(s[name] for s in part) for name in samples[0]})
    return result


def obey_ctrl_c() -> None:
    """Let the program that follows end by Ctrl-C, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def iterations(log: Path) -> int:
    """Return the last iteration that the training's output names."""
    found = re.findall(r" it (\d+)/", _text(log)[-20000:])
    return int(found[-1]) if found else 0


def soak(config: str, minutes: float, work_dir: Path, more: list[str], most: int | None = None) -> dict[str, Any]:
    """Carry out the training, of at most `most` iterations, and return samples, windows, growth and what it left."""
    train_dir, log = work_dir / "train", work_dir / "soak.log"
    work_dir.mkdir(parents=True)
    command = [sys.executable, "-m", "avsmamba.cli", "train", config, "--work-dir", str(train_dir), *more]
    samples: list[dict[str, float]] = []
    seen: set[int] = set()
    # Temporary files are not in the work dir: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, log.open("w") as output:
        temporary = Path(folder)
        process = subprocess.Popen(
            [*command, "--cfg-options", *OPTIONS],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": folder},
            preexec_fn=obey_ctrl_c,
        )
        start = time.monotonic()
        try:
            while process.poll() is None and time.monotonic() - start < 60 * minutes:
                if most is not None and samples and samples[-1]["iterations"] >= most:
                    break
                time.sleep(EVERY)
                seen |= {*tree(process.pid)}
                files = {"files": sum(p.is_file() for p in train_dir.rglob("*")), "temporary": len(_names(temporary))}
                progress = {"seconds": time.monotonic() - start, "iterations": iterations(log)}
                samples.append({**progress, **sample(process.pid), **files})
                with (work_dir / "samples.jsonl").open("a") as lines:
                    lines.write(json.dumps(samples[-1]) + "\n")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                status = process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        left = sorted(_names(temporary))
    parts = windows(samples)
    return {
        "config": config,
        "about": machine(),
        "minutes": samples[-1]["seconds"] / 60,
        "iterations": iterations(log),
        "status": status,
        "growth": {name: parts[-1][name] / parts[0][name] - 1 for name in ("memory", "training")} if parts else {},
        "windows": parts,
        "left": {
            "temporary": left,
            "hidden": sorted(str(p.relative_to(train_dir)) for p in train_dir.rglob(".*")),
            "shared_memory": sorted(name for name in _names(SHARED) if _process_of(name) in seen),
        },
        "files": sorted(str(p.relative_to(train_dir)) for p in train_dir.rglob("*") if p.is_file()),
        "samples": samples,
    }


def main() -> None:
    """Run the soak and print its windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/soak"))
    parser.add_argument("--json", type=Path)
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    result = soak(args.config, args.minutes, args.work_dir, more, args.iterations)
    if args.json:
        write_json(args.json, result)
    print(f"{result['minutes']:.0f} minutes, {result['iterations']} iterations, exit status {result['status']}")
    for part in result["windows"]:
        print(
            f"{part['seconds'] / 60:6.0f} min  memory {part['memory']:8.1f} MB (training {part['training']:8.1f} MB), "
            f"{part['processes']:.0f} processes, {part['threads']:.0f} threads, {part['open_files']:.0f} open files"
        )
    print("growth:", ", ".join(f"{name} {100 * value:+.2f} %" for name, value in result["growth"].items()))
    print("left:", ", ".join(f"{place} {names}" for place, names in result["left"].items()))


def _process_of(name: str) -> int:
    """Return the process that torch made a file in shared memory for; -1: it is not torch's."""
    found = re.match(r"torch_(\d+)_", name)
    return int(found[1]) if found else -1


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


if __name__ == "__main__":
    main()
