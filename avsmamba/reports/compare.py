"""Carry out the comparison of methods: its data, its runs and their records."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avsmamba.markdown import table
from avsmamba.reports.comparison import Comparison, DataSet, Records, Task, seconds, tasks
from avsmamba.reports.runs import carry_out_all
from avsmamba.sounding_shapes.generate import FOLDERS, TABLES, make_sounding_shapes
from avsmamba.utils import UserError


def compare(
    comparison: Comparison,
    records: Records,
    methods: Sequence[str],
    work_dir: str | Path,
    data_root: str | Path,
    jobs: int = 1,
    minutes: float | None = None,
) -> dict[str, str]:
    """Carry out the trainings that have no record, each in a process of its own with one thread.

    Args:
        comparison: what to run.
        records: of finished runs; those of new ones are added.
        methods: names.
        work_dir: for logs and checkpoints; a run that was cut off goes on from its last checkpoint.
        data_root: has a folder for each data set, which is generated if it is missing.
        jobs: runs at a time.
        minutes: after which no run is started.

    Returns:
        Reasons of failures by the run's name; such a run is repeated by the next call. A training whose loss was not
        finite is not a failure but a result.

    Raises:
        UserError: before anything is run, if a config is at fault or a data set has other clips.
    """
    planned = tasks(comparison, records, methods)
    for name in {task.data for task in planned}:
        prepare(comparison.data[name], Path(data_root) / name, jobs)
    by_folder: dict[Path, Task] = {}
    failed: dict[str, str] = {}

    def waiting() -> list[Any]:
        left = [t for t in tasks(comparison, records, methods) if t.lr is not None and records.find(t) is None]
        runs = [task.run(Path(work_dir), Path(data_root)) for task in left]
        by_folder.update(zip((run.folder for run in runs), left, strict=True))
        return runs

    for run, outcome in carry_out_all(waiting, jobs, minutes, threads=1):
        if isinstance(outcome, str):
            failed[run.name] = outcome
            print(f"{run.name}: failed: {outcome}", flush=True)
            continue
        records.add(by_folder[run.folder], outcome)
        text = outcome.get("diverged") or ", ".join(
            f"M_J {s['frame']['M_J']:.4f} ({sound})" for sound, s in outcome["scores"].items()
        )
        done = sum(records.find(t) is not None for t in tasks(comparison, records, methods))
        print(f"[{done}/{len(planned)}] {run.name}: {text}", flush=True)
    return failed


def prepare(data: DataSet, folder: Path, workers: int) -> None:
    """Generate a data set if it is missing.

    Raises:
        UserError: if its folder has clips, but not as many as planned.
    """
    place = folder / FOLDERS[data.subset]
    if not place.is_dir():
        print(f"generating {place}", flush=True)
        make_sounding_shapes(
            folder, data.subset, data.splits, data.size, data.seed, workers=workers, difficulty=data.difficulty
        )
    file = place / TABLES[data.subset][0]
    try:
        with file.open(encoding="utf-8", newline="") as text:
            found = Counter(row["split"] for row in csv.DictReader(text))
    except (OSError, KeyError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    if found != Counter(data.splits):
        raise UserError(
            f"{place}: expected clips {data.splits}, got {dict(found)}; remove it or name another --data-root"
        )


def describe_plan(
    comparison: Comparison, records: Records, methods: Sequence[str], cost: Mapping[str, Any], jobs: int
) -> str:
    """Return a table of all trainings in their order, and the estimated time of those that are left."""
    rows, total, unknown, done = [], 0.0, 0, 0
    for task in tasks(comparison, records, methods):
        record = records.find(task)
        estimate = seconds(task, records, cost, comparison.data[task.data].subset)
        state = "diverged" if record and "diverged" in record else "done" if record else ""
        if record:
            done += 1
        elif estimate is None:
            unknown += 1
        else:
            total += estimate
        rate = "of the trials" if task.lr is None else f"{task.lr:g}"
        kind = "trial" if task.trial else str(task.seed)
        shown = "?" if estimate is None else f"{estimate:.0f}"
        rows.append((task.method, task.data, kind, rate, task.iterations, shown, state))
    text = table(("method", "data", "seed", "lr", "iterations", "seconds", ""), rows, "lllrrrl", padded=True)
    end = f"; {unknown} without an estimate: run --cost first" if unknown else ""
    left = f"{total / 3600:.1f} h on one core, {total / 3600 / jobs:.1f} h with {jobs} jobs" if jobs > 1 else ""
    return f"{text}\n\n{done} of {len(rows)} done; left: {left or f'{total / 3600:.1f} h on one core'}{end}"
