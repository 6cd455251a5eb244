"""Costs of a training step of each method: time, memory and parameters, measured without other runs beside them."""

import gc
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import load_config
from avsmamba.engine.optim import build_optim_wrapper
from avsmamba.engine.runner import fill_from_train_loop
from avsmamba.reports.compare import prepare
from avsmamba.reports.comparison import Comparison, Record, machine
from avsmamba.reports.complexity import count, memory
from avsmamba.reports.runs import digest
from avsmamba.utils import atomic_write, read_json

FILE = "cost.json"


def measure_costs(
    comparison: Comparison,
    methods: Sequence[str],
    data_root: str | Path,
    folder: str | Path,
    rounds: int = 10,
) -> dict[str, Record]:
    """Measure training steps (forward, backward and optimizer) on one thread, and write `cost.json`.

    The peak memory of a method is measured in a process of its own. The times are of one process with all models, which
    take their steps in turn on the same batches, so that a change of the machine's speed concerns all of them.

    Args:
        comparison: what to measure.
        methods: names; the comparison's first method, the unit of the ratios, is measured in any case.
        data_root: has a folder for each data set.
        folder: of `cost.json`; the values of methods that are not measured remain.
        rounds: timed steps of each method, after one that is not timed.

    Returns:
        For each method and subset: `seconds` (median), `ratio` to the unit (median of the rounds' ratios),
        `peak_GB` (1e9 bytes, above that of the process before the model was built), `parameters`, `digest` of the
        model's config, and what it was measured on.
    """
    methods = [next(iter(comparison.methods)), *methods]
    first_data: dict[str, str] = {}
    for name, data in comparison.data.items():
        first_data.setdefault(data.subset, name)
    costs: dict[str, Record] = {method: {} for method in methods}
    spawn = multiprocessing.get_context("spawn")
    for subset, name in first_data.items():
        root = Path(data_root) / name
        prepare(comparison.data[name], root, 1)
        configs = {m: c for m in methods if (c := comparison.config(m, name)) is not None}
        peaks = {}
        for method, config in configs.items():
            with spawn.Pool(1) as pool:
                peaks[method] = pool.apply(peak_memory, (config, str(root)))
        with spawn.Pool(1) as pool:
            times = pool.apply(time_steps, (configs, str(root), rounds))
        unit = times[next(iter(configs))]
        for method, config in configs.items():
            costs[method][subset] = {
                "seconds": round(statistics.median(times[method]), 4),
                "ratio": round(statistics.median(t / u for t, u in zip(times[method], unit, strict=True)), 3),
                **peaks[method],
                "digest": model_digest(config),
                "rounds": rounds,
                "torch": torch.__version__,
                "machine": machine(),
            }
            found = costs[method][subset]
            print(f"{method}, {subset}: {found['seconds']:.3f} s a step, ratio {found['ratio']:.2f}, ", end="")
            print(f"{found['peak_GB']:.2f} GB, {found['parameters'] / 1e6:.2f} M parameters", flush=True)
    every = {**read_costs(folder), **costs}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in every.items())
    with atomic_write(Path(folder) / FILE) as path:
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return costs


def read_costs(folder: str | Path) -> dict[str, Record]:
    """Read `cost.json`; empty if there is none."""
    file = Path(folder) / FILE
    return read_json(file) if file.is_file() else {}


def current_costs(comparison: Comparison, folder: str | Path) -> dict[str, Record]:
    """Return the measured costs by method and subset, without those of configs that have changed."""
    result: dict[str, Record] = {}
    for method, by_subset in read_costs(folder).items():
        for subset, values in by_subset.items() if method in comparison.methods else ():
            config = getattr(comparison.methods[method], subset, None)
            if config is not None and values["digest"] == model_digest(config):
                result.setdefault(method, {})[subset] = values
    return result


def model_digest(config: str) -> str:
    """Return the digest of a config's model, loader of training data and optimizer."""
    values = load_config(config).to_dict()
    values["train_dataloader"]["dataset"].pop("data_root", None)
    return digest({key: values[key] for key in ("model", "train_dataloader", "optim_wrapper")})


def _prepared(config: str, data_root: str) -> Config:
    cfg = load_config(config, {"train_dataloader.num_workers": 0}, data_root)
    fill_from_train_loop(cfg)
    init_default_scope(cfg.default_scope)  # a new process has none
    return cfg


def _batches(cfg: Config) -> Iterator[Any]:
    return iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))


def _trainer(cfg: Config) -> Any:
    torch.manual_seed(0)
    model = build_model(cfg.model).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    return model, lambda batch: model.train_step(batch, optimizer)  # type: ignore[operator]


def peak_memory(config: str, data_root: str) -> Mapping[str, Any]:
    """Take two training steps; return parameters and peak memory above that before the model was built.

    To be called in a new process.
    """
    torch.set_num_threads(1)
    cfg = _prepared(config, data_root)
    batch = next(_batches(cfg))
    gc.collect()
    before = memory("cpu")
    model, step = _trainer(cfg)
    for _ in range(2):
        step(batch)
    return {"parameters": count(model), "peak_GB": round(memory("cpu") - before, 3)}


def time_steps(configs: Mapping[str, str], data_root: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of `rounds` training steps of each method, on one thread; in turn on the same batches."""
    torch.set_num_threads(1)
    prepared = {method: _prepared(config, data_root) for method, config in configs.items()}
    steps = {method: _trainer(cfg)[1] for method, cfg in prepared.items()}
    batches = _batches(next(iter(prepared.values())))
    times: dict[str, list[float]] = {method: [] for method in configs}
    for number in range(rounds + 1):
        batch = next(batches)
        for method, step in steps.items():
            start = time.perf_counter()
            step(batch)
            if number:
                times[method].append(time.perf_counter() - start)
    return times
