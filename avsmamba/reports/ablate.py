"""Train and score many configs with several seeds: `avsmamba ablate`.

Each run has the folder `{work_dir}/{config's name}/seed_{n}`, see `avsmamba.reports.runs`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avsmamba.choices import SOUNDS
from avsmamba.config.variants import config_name
from avsmamba.reports.runs import RESULT, Result, Run, carry_out_all
from avsmamba.utils import UserError, read_json


def plan(
    configs: Sequence[str | Path],
    seeds: int,
    work_dir: str | Path,
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
    folder = Path(work_dir)
    return [
        Run(f"{n}, seed {s}", folder / n / f"seed_{s}", str(c), s, tuple(sounds), tuple(options), data_root)
        for s in range(seeds)
        for c, n in zip(configs, names, strict=True)
    ]


def ablate(runs: Sequence[Run], jobs: int = 1) -> tuple[list[Result], dict[str, str]]:
    """Carry out the runs that are not finished; after one that fails the others go on.

    Args:
        runs: in their order.
        jobs: runs at a time; with several, each has one thread.

    Returns:
        Results in the order of `runs`, and the reasons of failures by the run's name.

    Raises:
        UserError: before anything is run, if a config is at fault or a folder holds a run of another config.
    """
    for run in runs:
        check_folder(run.folder, run.record)
    results, failed = {}, {}
    for run, outcome in carry_out_all(lambda: runs, jobs, threads=1 if jobs > 1 else None):
        number = runs.index(run) + 1
        if isinstance(outcome, str) or "diverged" in outcome:
            failed[run.name] = reason = outcome if isinstance(outcome, str) else outcome["diverged"]
            print(f"[{number}/{len(runs)}] {run.name}: failed: {reason}", flush=True)
            continue
        results[run.name] = done = outcome
        scores = ", ".join(f"M_J {s['frame']['M_J']:.4f} ({sound})" for sound, s in done["scores"].items())
        print(f"[{number}/{len(runs)}] {run.name}: {scores}, {done['train_seconds']:.0f} s of training", flush=True)
    return [results[run.name] for run in runs if run.name in results], failed


def finished(runs: Sequence[Run]) -> list[Result]:
    """Read the results that exist, in the order of `runs`; nothing is run.

    Raises:
        UserError: if a folder holds a run of another config.
    """
    for run in runs:
        check_folder(run.folder, run.record)
    results = [read_json(run.folder / RESULT) for run in runs if (run.folder / RESULT).is_file()]
    return [result for result in results if "diverged" not in result]


def check_folder(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise a UserError if the folder holds a run of another config, data or set of sounds."""
    file = folder / "run.json"
    if not file.is_file():
        return
    found = read_json(file)
    for key, what in (("digest", "config"), ("data", "data root"), ("sounds", "set of sounds")):
        if found.get(key) != record[key]:
            raise UserError(f"{folder}: holds a run with another {what}; remove it or name another --work-dir")
