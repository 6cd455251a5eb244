"""Train and score many configs with several seeds, one run after another: tools/ablate.py.

Each run is a process of its own, with a folder `{work_dir}/{config's name}/seed_{n}`: `run.json` describes the run,
`log.txt` has its output, `train/` its checkpoints, and `result.json` appears when it is finished.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsmamba.checkpoint.build import build_model
from avsmamba.checkpoint.reading import read_file
from avsmamba.choices import SOUNDS
from avsmamba.config.load import load_config, parse_options
from avsmamba.config.variants import config_name
from avsmamba.config.yaml_io import dump
from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.train import train
from avsmamba.engine.work_dir import find_latest
from avsmamba.exit_status import run_tool
from avsmamba.reports.curves import read_curves
from avsmamba.utils import UserError, atomic_write, read_json

Result = dict[str, Any]

RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """One training and its tests; `seed` is of weights, clips' order and augmentations, `options` are `key=value`."""

    config: str
    seed: int
    sounds: tuple[str, ...]
    options: tuple[str, ...] = ()
    data_root: str | None = None

    @property
    def name(self) -> str:
        return f"{config_name(self.config)}, seed {self.seed}"

    def folder(self, work_dir: Path) -> Path:
        """Return the folder of the run's files."""
        return work_dir / config_name(self.config) / f"seed_{self.seed}"

    def record(self) -> dict[str, Any]:
        """Return the content of `run.json`; `digest` is of the whole config, its bases and options included."""
        cfg = load_config(self.config, parse_options(self.options), self.data_root)
        digest = hashlib.sha256(dump(cfg.to_dict()).encode()).hexdigest()[:16]
        return {**vars(self), "sounds": list(self.sounds), "options": list(self.options), "digest": digest}


def plan(
    configs: Sequence[str | Path],
    seeds: int,
    sounds: Sequence[str] = ("real", "shuffle"),
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> list[Run]:
    """List the runs in their order: all configs with the first seed, then all with the second.

    Raises:
        UserError: if an argument is out of range or two configs have one name.
    """
    names = [config_name(c) for c in configs]
    if not configs:
        raise UserError("--configs: expected at least one config")
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"--configs: two configs are named {min(twice)!r}; their results would share a folder")
    if seeds < 1:
        raise UserError(f"--seeds: expected at least 1, got {seeds}")
    if "real" not in sounds or not set(sounds) <= set(SOUNDS):
        raise UserError(f"--sounds: expected 'real' and any of {', '.join(SOUNDS)}, got {' '.join(sounds)}")
    return [Run(str(c), seed, tuple(sounds), tuple(options), data_root) for seed in range(seeds) for c in configs]


def ablate(runs: Sequence[Run], work_dir: str | Path) -> tuple[list[Result], dict[str, str]]:
    """Carry out the runs that are not finished; after one that fails the others go on.

    A run with a `result.json` is skipped, one that was cut off goes on from its last checkpoint.

    Returns:
        Results in the order of `runs`, and the reasons of failures by the run's name.

    Raises:
        UserError: before anything is run, if a config is at fault or a folder holds a run of another config.
    """
    folder = Path(work_dir)
    records = [run.record() for run in runs]
    for run, record in zip(runs, records, strict=True):
        check_folder(run.folder(folder), record)
    results, failed = [], {}
    for number, (run, record) in enumerate(zip(runs, records, strict=True), 1):
        place = run.folder(folder)
        done = read_json(place / RESULT) if (place / RESULT).is_file() else None
        if done is None:
            print(f"[{number}/{len(runs)}] {run.name}: {place}", flush=True)
            with atomic_write(place / "run.json") as path:
                path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            reason = run_in_a_process(place)
            if reason:
                failed[run.name] = reason
                print(f"[{number}/{len(runs)}] {run.name}: failed: {reason}", flush=True)
                continue
            done = read_json(place / RESULT)
        scores = ", ".join(f"M_J {s['frame']['M_J']:.4f} ({sound})" for sound, s in done["scores"].items())
        print(f"[{number}/{len(runs)}] {run.name}: {scores}, {done['train_seconds']:.0f} s of training", flush=True)
        results.append(done)
    return results, failed


def finished(runs: Sequence[Run], work_dir: str | Path) -> list[Result]:
    """Read the results that exist, in the order of `runs`; nothing is run.

    Raises:
        UserError: if a folder holds a run of another config.
    """
    places = [(run.folder(Path(work_dir)), run.record()) for run in runs]
    for place, record in places:
        check_folder(place, record)
    return [read_json(place / RESULT) for place, _ in places if (place / RESULT).is_file()]


def check_folder(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise a UserError if the folder holds a run of another config, data or set of sounds."""
    file = folder / "run.json"
    if not file.is_file():
        return
    found = read_json(file)
    for key in ("digest", "sounds"):
        if found.get(key) != record[key]:
            what = "config or data root" if key == "digest" else "set of sounds"
            raise UserError(f"{folder}: holds a run with another {what}; remove it or name another --work-dir")


def run_in_a_process(folder: Path) -> str | None:
    """Run what `folder / 'run.json'` describes; return None, or the last line of the process if it failed."""
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "avsmamba.reports.ablate", str(folder)]
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{last.removeprefix('error: ')} (status {status}, see {log})"


def carry_out(folder: Path) -> None:
    """Train and test the run that `folder / 'run.json'` describes, and write `result.json`."""
    record = read_json(folder / "run.json")
    options = [*record["options"], f"randomness.seed={record['seed']}"]
    config, common = record["config"], {"options": options, "data_root": record["data_root"]}
    train(config, str(folder / "train"), resume="auto", **common)
    checkpoint = find_latest(folder / "train")
    if checkpoint is None:
        raise UserError(f"{folder / 'train'}: the training left no checkpoint; see default_hooks.checkpoint")
    curves = read_curves(folder / "train", scored=False)
    scores = {
        sound: evaluate(config, checkpoint, str(folder / f"test_{sound}"), audio=sound, **common)
        for sound in record["sounds"]
    }
    model = build_model(load_config(config, parse_options(options)).model, device="meta")
    result = {
        "config": config_name(config),
        "seed": record["seed"],
        "digest": record["digest"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "iterations": read_file(checkpoint)["meta"]["iter"],
        "loss": curves.loss[-1][1],
        "train_seconds": round(curves.seconds, 1),
        "scores": scores,
        "env": read_json(folder / "train" / "env.json"),
    }
    with atomic_write(folder / RESULT) as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_tool(lambda: carry_out(Path(sys.argv[1])))
