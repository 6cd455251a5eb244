"""Trainings and their tests, each a process of its own: what `avsmamba ablate` and `avsmamba compare` carry out.

A run has a folder: `run.json` describes it, `log.txt` has its output, `train/` its checkpoints, and `result.json`
appears when it is finished.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avsmamba.checkpoint.build import build_model
from avsmamba.checkpoint.reading import read_file
from avsmamba.config.load import LOADERS, data_sets, load_config, parse_options
from avsmamba.config.variants import config_name
from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.hooks import NotFiniteError
from avsmamba.engine.train import train
from avsmamba.engine.work_dir import find_latest
from avsmamba.exit_status import run_tool
from avsmamba.reports.complexity import count, memory
from avsmamba.reports.curves import read_curves
from avsmamba.utils import UserError, atomic_write, read_json

Result = dict[str, Any]

RESULT = "result.json"


@dataclass(frozen=True)
class Run:
    """One training and its tests.

    Attributes:
        name: in messages.
        folder: of the run's files.
        config: a config of a file or table.
        seed: of weights, clips' order and augmentations.
        sounds: to test with.
        options: `key=value` strings that override the config.
        data_root: folder of the data set; None: the config's.
    """

    name: str
    folder: Path
    config: str
    seed: int
    sounds: tuple[str, ...]
    options: tuple[str, ...] = ()
    data_root: str | None = None

    @cached_property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`; `digest` is of the whole config but for the folders of the data, `data`."""
        values = load_config(self.config, parse_options(self.options), self.data_root).to_dict()
        sets = [d for loader in LOADERS for d in data_sets((values.get(loader) or {}).get("dataset"))]
        roots = sorted({str(dataset.pop("data_root", None)) for dataset in sets})
        return {
            "config": self.config,
            "seed": self.seed,
            "sounds": [*self.sounds],
            "options": [*self.options],
            "data_root": self.data_root,
            "data": roots,
            "digest": digest(values),
        }


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that identify a value of mappings, lists, texts and numbers."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def carry_out_all(
    waiting: Callable[[], Sequence[Run]], jobs: int = 1, minutes: float | None = None, threads: int | None = None
) -> Iterator[tuple[Run, Result | str]]:
    """Carry out runs, each in its own process; yield each with its result, or the reason why it failed.

    A run with a `result.json` is not repeated, one that was cut off goes on from its last checkpoint.

    Args:
        waiting: returns what is left to do, the most urgent first; called before each start. Runs that were yielded
            before are ignored.
        jobs: runs at a time.
        minutes: after which no run is started.
        threads: of each process; None: those of this one's environment.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    started: set[Path] = set()
    active: dict[Future[str | None], Run] = {}
    # The threads only wait for their processes.
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            for run in waiting() if len(active) < jobs else ():
                if len(active) < jobs and run.folder not in started and (end is None or time.monotonic() < end):
                    started.add(run.folder)
                    active[pool.submit(_finish, run, threads)] = run
            if not active:
                return
            for future in wait(active, return_when=FIRST_COMPLETED).done:
                run = active.pop(future)
                yield run, future.result() or read_json(run.folder / RESULT)


def _finish(run: Run, threads: int | None) -> str | None:
    if (run.folder / RESULT).is_file():
        return None
    print(f"start {run.name}: {run.folder}", flush=True)
    with atomic_write(run.folder / "run.json") as path:
        path.write_text(json.dumps(run.record, indent=2) + "\n", encoding="utf-8")
    return run_in_a_process(run.folder, threads)


def run_in_a_process(folder: Path, threads: int | None = None) -> str | None:
    """Run what `folder / 'run.json'` describes; return None, or the last line of the process if it failed.

    The process ends when this one does, however that ends: it waits for the end of its standard input.
    """
    log = folder / "log.txt"
    command = [sys.executable, "-m", "avsmamba.reports.runs", str(folder)]
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment
        ) as process,
    ):
        status = process.wait()
    if status == 130:
        raise KeyboardInterrupt
    if status == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"{last.removeprefix('error: ')} (status {status}, see {log})"


def carry_out(folder: Path) -> None:
    """Train and test the run that `folder / 'run.json'` describes, and write `result.json`.

    If the loss is not finite at some step, `result.json` has the message under `diverged`, and no scores.
    """
    record = read_json(folder / "run.json")
    options = [*record["options"], f"randomness.seed={record['seed']}"]
    config, common = record["config"], {"options": options, "data_root": record["data_root"]}
    model = build_model(load_config(config, parse_options(options)).model, device="meta")
    result: Result = {"config": config_name(config), "seed": record["seed"], "digest": record["digest"]}
    result["parameters"] = count(model)
    try:
        train(config, str(folder / "train"), resume="auto", **common)
        result |= scores_of(record, folder, common)
    except NotFiniteError as error:
        result |= {"diverged": str(error), "scores": {}}
    result |= {"peak_GB": round(memory("cpu"), 3), "env": read_json(folder / "train" / "env.json")}
    with atomic_write(folder / RESULT) as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def scores_of(record: Mapping[str, Any], folder: Path, common: Mapping[str, Any]) -> Result:
    """Test a trained run with each of its sounds, under all conventions with its own; return loss, seconds and scores.

    Raises:
        UserError: if the training left no checkpoint.
    """
    checkpoint = find_latest(folder / "train")
    if checkpoint is None:
        raise UserError(f"{folder / 'train'}: the training left no checkpoint; see default_hooks.checkpoint")
    curves = read_curves(folder / "train", scored=False)
    start = time.perf_counter()
    scores = {}
    for sound in record["sounds"]:
        work_dir = str(folder / f"test_{sound}")
        scores[sound] = evaluate(
            record["config"], checkpoint, work_dir, audio=sound, conventions=sound == "real", **common
        )
    return {
        "iterations": read_file(checkpoint)["meta"]["iter"],
        "loss": curves.loss[-1][1],
        "train_seconds": round(curves.seconds, 1),
        "test_seconds": round(time.perf_counter() - start, 1),
        "scores": scores,
    }


def end_with_the_parent() -> None:
    """End this process when its standard input ends, as it does when the process that started it ends."""

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock is required at the end of the process
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_the_parent()
    run_tool(lambda: carry_out(Path(sys.argv[1])))
