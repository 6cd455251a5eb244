"""The plan of the comparison of methods (`configs/comparison.yaml`), and the records of its finished runs."""

import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avsmamba.choices import SOUNDS
from avsmamba.config import yaml_io
from avsmamba.config.arguments import build
from avsmamba.config.load import LOADERS, data_sets, load_config
from avsmamba.config.variants import split_name
from avsmamba.reports.runs import Result, Run, digest
from avsmamba.utils import UserError, atomic_write, read_json

Record = dict[str, Any]

LEARNING_RATE = "optim_wrapper.optimizer.lr"
_ONLY_LOGS = ("default_hooks", "log_processor", "visualizer", "env_cfg")  # no result depends on them


@dataclass(frozen=True)
class Method:
    """A method: its title, and its configs beside the comparison's file; `ms3` and `avss` may be null: it has none."""

    title: str
    ms3: str | None = None
    avss: str | None = None


@dataclass(frozen=True)
class DataSet:
    """SoundingShapes by the arguments of `make_sounding_shapes`, and the iterations of a training."""

    title: str
    subset: str
    iterations: int
    splits: dict[str, int] = field(default_factory=dict)
    size: int = 96
    seed: int = 0
    difficulty: str = "plain"


@dataclass(frozen=True)
class Trials:
    """Learning rates to try on one data set, with shorter trainings of one seed."""

    data: str
    lr: list[float]
    iterations: int
    seed: int


@dataclass(frozen=True)
class _Content:
    methods: dict[str, Any]
    data: dict[str, Any]
    trials: dict[str, Any]
    seeds: list[int]
    sounds: list[str]


@dataclass(frozen=True)
class Task:
    """One training of the comparison.

    Attributes:
        method: name of the method.
        data: name of the data set.
        seed: of weights, clips' order and augmentations.
        lr: learning rate; None: it is not chosen yet.
        trial: whether it is a trial of the learning rate, scored on the validation clips with the real sound alone.
        iterations: of the training.
        config: file or variant.
        sounds: to test with.
        digest: of all that the result depends on except the code: the config, the data's arguments, seed and sounds.
    """

    method: str
    data: str
    seed: int
    lr: float | None
    trial: bool
    iterations: int
    config: str
    sounds: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        """The name in messages."""
        rate = "?" if self.lr is None else f"{self.lr:g}"
        return f"{self.method}, {self.data}, {'trial' if self.trial else f'seed {self.seed}'}, lr {rate}"

    def run(self, work_dir: Path, data_root: Path) -> Run:
        """Return the run that carries this out; the learning rate must be known."""
        kind = f"trial_{self.lr:g}" if self.trial else f"seed_{self.seed}"
        options = [f"{LEARNING_RATE}={self.lr:g}", f"train_cfg.max_iters={self.iterations}"]
        options += ["test_dataloader.dataset.split=val"] if self.trial else []
        return Run(
            self.name,
            work_dir / self.method / f"{self.data}_{kind}_{self.digest}",
            self.config,
            self.seed,
            self.sounds,
            tuple(options),
            str(data_root / self.data),
        )


class Comparison:
    """Methods, data sets, trials, seeds and sounds of a comparison.

    Attributes:
        methods: by name; their configs are paths.
        data: by name.

    Raises:
        UserError: naming the file and the key that is at fault.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        content = build(_Content, yaml_io.read(self.file), self.file)
        self.data = {k: build(DataSet, v, self.file, f"data.{k}") for k, v in content.data.items()}
        self.methods = {name: self._method(name, values) for name, values in content.methods.items()}
        self.trials = build(Trials, content.trials, self.file, "trials")
        self.seeds, self.sounds = content.seeds, tuple(content.sounds)
        self._configs: dict[tuple[str, int], Any] = {}
        self._check()

    def _method(self, name: str, values: Any) -> Method:
        usual = {subset: f"baselines/{name}_tiny_{subset}_comparison.yaml" for subset in ("ms3", "avss")}
        values = {**usual, **values} if isinstance(values, dict) else values
        method = build(Method, values, self.file, f"methods.{name}")
        paths = {s: str(self.file.parent / path) for s in usual if (path := getattr(method, s)) is not None}
        for subset, path in paths.items():
            if not split_name(path)[0].is_file():
                raise UserError(f"{self.file}: methods.{name}.{subset}: no such file: {split_name(path)[0]}")
        return Method(method.title, paths.get("ms3"), paths.get("avss"))

    def _check(self) -> None:
        def fail(key: str, expected: str, got: Any) -> None:
            raise UserError(f"{self.file}: {key}: expected {expected}, got {got!r}")

        for name, data in self.data.items():
            if data.subset not in ("ms3", "avss"):
                fail(f"data.{name}.subset", "ms3 or avss", data.subset)
            if data.iterations < 1:
                fail(f"data.{name}.iterations", "at least 1", data.iterations)
        if self.trials.data not in self.data:
            fail("trials.data", f"one of {', '.join(self.data)}", self.trials.data)
        if not self.trials.lr or min(self.trials.lr) <= 0 or len({*self.trials.lr}) < len(self.trials.lr):
            fail("trials.lr", "different numbers above 0", self.trials.lr)
        if self.trials.iterations < 1:
            fail("trials.iterations", "at least 1", self.trials.iterations)
        if not self.seeds or min(self.seeds) < 0 or len({*self.seeds}) < len(self.seeds):
            fail("seeds", "different numbers from 0", self.seeds)
        if "real" not in self.sounds or not {*self.sounds} <= {*SOUNDS}:
            fail("sounds", f"'real' and any of {', '.join(SOUNDS)}", [*self.sounds])

    def chosen(self, names: Sequence[str] | None) -> list[str]:
        """Return the methods of these names, of all by default, in the file's order.

        Raises:
            UserError: for an unknown name.
        """
        if unknown := [name for name in names or () if name not in self.methods]:
            raise UserError(f"--methods: no such method: {unknown[0]}; {self.file} has {', '.join(self.methods)}")
        return [name for name in self.methods if names is None or name in names]

    def config(self, method: str, data: str) -> str | None:
        """Return the config of a method for a data set, None if it has none."""
        found: str | None = getattr(self.methods[method], self.data[data].subset)
        return found

    def values(self, config: str, iterations: int) -> Any:
        """Return the keys of a config on which a result depends, without learning rate and data root."""
        if (config, iterations) not in self._configs:
            values = load_config(config, {LEARNING_RATE: 1.0, "train_cfg.max_iters": iterations}).to_dict()
            for loader in LOADERS:
                for dataset in data_sets((values.get(loader) or {}).get("dataset")):
                    dataset.pop("data_root", None)
            self._configs[config, iterations] = {k: v for k, v in values.items() if k not in _ONLY_LOGS}
        return self._configs[config, iterations]

    def task(self, method: str, data: str, seed: int, lr: float | None, trial: bool = False) -> Task | None:
        """Return a training; None if the method has no config for the data set."""
        config = self.config(method, data)
        if config is None:
            return None
        source = asdict(self.data[data])
        del source["title"], source["iterations"]
        iterations = self.trials.iterations if trial else self.data[data].iterations
        sounds = ("real",) if trial else self.sounds
        values = self.values(config, iterations)
        key = digest({"config": values, "data": source, "seed": seed, "lr": lr, "trial": trial, "sounds": sounds})
        return Task(method, data, seed, lr, trial, iterations, config, sounds, key)

    def trial_tasks(self, method: str) -> list[Task]:
        """Return the trials of a method."""
        found = [self.task(method, self.trials.data, self.trials.seed, lr, True) for lr in self.trials.lr]
        return [task for task in found if task is not None]


class Records:
    """Finished runs, in a file `{method}.json` for each method with one run a line.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._entries: dict[str, list[Record]] = {}

    def of(self, method: str) -> list[Record]:
        """Return all records of a method, also of configs that have changed."""
        if method not in self._entries:
            file = self.folder / f"{method}.json"
            found = read_json(file).get("runs") if file.is_file() else []
            if not isinstance(found, list) or not all(isinstance(r, dict) and "digest" in r for r in found):
                raise UserError(f"{file}: expected records under 'runs', each with a 'digest'")
            self._entries[method] = found
        return self._entries[method]

    def find(self, task: Task) -> Record | None:
        """Return the record of a training, None if it is not finished or its config has changed."""
        return next((r for r in self.of(task.method) if r["digest"] == task.digest), None)

    def add(self, task: Task, result: Result) -> None:
        """Write the record of a finished training; it replaces that of a changed config."""

        def place(record: Record) -> tuple[Any, ...]:
            return not record["trial"], record["data"], record["seed"], record["lr"] if record["trial"] else 0

        new = record_of(task, result)
        kept = [r for r in self.of(task.method) if place(r) != place(new)]
        self._entries[task.method] = entries = sorted([*kept, new], key=place)
        # One run a line, so that a diff shows the run that changed.
        lines = ",\n".join("  " + json.dumps(r) for r in entries)
        with atomic_write(self.folder / f"{task.method}.json") as path:
            path.write_text(f'{{"runs": [\n{lines}\n]}}\n', encoding="utf-8")


def record_of(task: Task, result: Result) -> Record:
    """Return what is kept of a run's result; scores are M_J and M_F of the frame protocol."""
    env = result["env"]
    scores = {
        sound: {"clips": s["clips"], **s["frame"], "foreground": s.get("foreground")}
        for sound, s in result["scores"].items()
    }
    for values in scores.values():
        for name in set(values) - {"clips", "M_J", "M_F", "foreground"}:
            del values[name]
    kept = ("parameters", "iterations", "loss", "train_seconds", "test_seconds", "peak_GB", "diverged")
    return {
        "trial": task.trial,
        "data": task.data,
        "seed": task.seed,
        "lr": task.lr,
        "digest": task.digest,
        **{key: result[key] for key in kept if key in result},
        "scores": scores,
        **{key: env.get(key) for key in ("torch", "commit", "threads")},
        "machine": machine(),
    }


def machine() -> str:
    """Return the name of the processor."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", file.read_text()) if file.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def learning_rate(comparison: Comparison, records: Records, method: str) -> float | None:
    """Return the learning rate with the best M_J on the validation clips, the lower one of equals.

    None while a trial is missing, or if all of them diverged.
    """
    found = [records.find(task) for task in comparison.trial_tasks(method)]
    scored = [(r["scores"]["real"]["M_J"], -r["lr"]) for r in found if r is not None and "diverged" not in r]
    return -max(scored)[1] if scored and None not in found else None


def tasks(comparison: Comparison, records: Records, methods: Iterable[str]) -> list[Task]:
    """List the trainings in their order: trials of all methods, then the first seed of all on each data set, ..."""
    methods = [*methods]
    by_method = [comparison.trial_tasks(m) for m in methods]
    trials = [t for turn in zip(*[ts for ts in by_method if ts], strict=True) for t in turn]
    rates = {m: learning_rate(comparison, records, m) for m in methods}
    runs = [
        comparison.task(method, data, seed, rates[method])
        for seed in comparison.seeds
        for data in comparison.data
        for method in methods
    ]
    return trials + [run for run in runs if run is not None]


def seconds(task: Task, records: Records, cost: Mapping[str, Any], subset: str) -> float | None:
    """Estimate the time of a training and its tests, in seconds.

    From the method's finished runs on the same data set, else from its measured step; None if there is neither.
    """
    done = [r for r in records.of(task.method) if r["data"] == task.data and r.get("iterations") and r["scores"]]
    tests = [r["test_seconds"] / len(r["scores"]) for r in done]
    rest = len(task.sounds) * (sum(tests) / len(tests) if tests else 5.0) + 10.0
    if done:
        steps = sum(r["train_seconds"] for r in done) / sum(r["iterations"] for r in done)
    else:
        found = cost.get(task.method, {}).get(subset)
        if found is None:
            return None
        steps = found["seconds"]
    return float(task.iterations * steps + rest)
