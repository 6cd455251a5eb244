"""The zoo: every config with its size, cost, published score and ours; printed and written by tools/zoo.py."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import avsmamba.ops.flops  # noqa: F401  (registers our operators with the counter)
from avsmamba.checkpoint.build import build_model, drop_pretrained
from avsmamba.config.load import load_config
from avsmamba.engine.dry_run import batch_shape, dry_run
from avsmamba.reports.pages import render
from avsmamba.reports.paper_tables import ABLATIONS, METAFILES, Ablations, Methods, Score
from avsmamba.utils import UserError, atomic_write, read_json

FRAMES = 5  # of a clip of S4 and MS3; AVSS says its own
Measured = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Entry:
    """One config of the zoo at one size.

    Attributes:
        config: its path under `configs/`, without the ending; `ablations.yaml#NAME` for a variant.
        size: height and width in testing, pixels.
        frames: of a clip.
        parameters: of the model.
        flops: floating point operations of one clip, forward; a multiply-add counts two.
        option: `size=N` where the size is not the config's own.
    """

    config: str
    size: int
    frames: int
    parameters: int
    flops: int
    option: str = ""

    @property
    def key(self) -> str:
        """Config and option: the key of the estimates of memory."""
        return f"{self.config} {self.option}".strip()

    @property
    def cells(self) -> str:
        """Parameters and GFLOPs, two cells of a table."""
        return f"{self.parameters / 1e6:.2f} | {self.flops / 1e9:.{1 if self.flops > 1e10 else 2}f}"


class Costs:
    """Parameters and operations of configs, on the meta device, where nothing is computed.

    Models and counts are kept, since many configs differ in their data only.
    """

    def __init__(self) -> None:
        self.models: dict[str, nn.Module] = {}
        self.counts: dict[tuple[str, int, int], int] = {}

    def entry(self, cfg: Config, config: str, option: str = "") -> Entry:
        """Return the zoo's entry of a config; `config` and `option` as in `Entry`.

        Raises:
            UserError: if the config's tests do not resize to one size.
        """
        key, model = self.model(cfg)
        size, frames = clip_shape(cfg)
        if (key, size, frames) not in self.counts:
            self.counts[key, size, frames] = count_flops(model, size, frames)
        parameters = sum(p.numel() for p in model.parameters())
        return Entry(config, size, frames, parameters, self.counts[key, size, frames], option)

    def model(self, cfg: Config) -> tuple[str, nn.Module]:
        """Return the model on the meta device, and its key: its config without losses and files."""
        drop_pretrained(cfg.model)
        key = json.dumps({k: v for k, v in cfg.model.to_dict().items() if not k.endswith("losses")}, sort_keys=True)
        if key not in self.models:
            self.models[key] = build_model(cfg.model, device="meta").eval().requires_grad_(False)
        return key, self.models[key]


def clip_shape(cfg: Config) -> tuple[int, int]:
    """Return height and width, and frames, of a test clip."""
    dataset = cfg.test_dataloader.dataset
    sizes = [t["size"] for t in dataset.get("pipeline") or [] if t.get("type") == "Resize"]
    if len(sizes) != 1 or not isinstance(sizes[0], int):
        raise UserError(f"{cfg.filename}: test_dataloader.dataset.pipeline: the zoo expects one Resize with one number")
    return sizes[0], dataset.get("num_frames", FRAMES)


@torch.no_grad()
def count_flops(model: nn.Module, size: int, frames: int) -> int:
    """Count the operations of one clip through a model on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, frames, 3, size, size, device="meta"), torch.empty(1, frames, 1, 96, 64, device="meta"))
    return counter.get_total_flops()


def config_files(configs: Path) -> list[Path]:
    """Return all configs under `configs` by folder and name, without bases, metafiles and the table of variants."""
    return sorted(p for p in configs.glob("*/*.yaml") if p.parent.name not in ("_base_", METAFILES))


def sized_configs(configs: Path, methods: Methods) -> Iterator[tuple[Config, str, str]]:
    """Yield every config at each size of its metafile, with its path under `configs` and the option that sets the size.

    Raises:
        UserError: if a config is in no metafile, or has another size or convention there.
    """
    for path in config_files(configs):
        name = path.relative_to(configs).with_suffix("").as_posix()
        if name not in methods.configs:
            raise UserError(f"{path}: is not in a file of {configs / METAFILES}")
        method, facts = methods.configs[name]
        for size in facts.sizes:
            own = size == facts.sizes[0]
            cfg = load_config(path, None if own else {"size": size})
            found = clip_shape(cfg)[0], cfg.test_evaluator.get("convention", "avs_mamba")
            if found != (size, method.convention):
                raise UserError(f"{path}: has size and convention {found}, its metafile {(size, method.convention)}")
            yield cfg, name, "" if own else f"size={size}"


def collect(configs: Path) -> list[Entry]:
    """Return the entries of all configs at all sizes, then of the ablations."""
    costs = Costs()
    entries = [costs.entry(*sized) for sized in sized_configs(configs, Methods(configs))]
    names = [f"{ABLATIONS}#{name}" for name in Ablations(configs).variants.names()]
    return entries + [costs.entry(load_config(configs / name), name) for name in names]


def percent(score: Sequence[float] | None) -> str:
    """Write `M_J / M_F` in percent."""
    return "–" if score is None else " / ".join(f"{value:.1f}" for value in score)


def measured_score(measured: Measured, config: str) -> Score | None:
    """Return our score with the real sound; the last one where there are several."""
    runs = [run for run in measured.get(config, ()) if run["sound"] == "real"]
    return (100 * runs[-1]["M_J"], 100 * runs[-1]["M_F"]) if runs else None


def page(entries: Sequence[Entry], measured: Measured, memory: Mapping[str, int], configs: Path) -> str:
    """Return the text of `docs/zoo.md`.

    Args:
        entries: of the configs.
        measured: scores that were reached here, by config.
        memory: estimated peak bytes of a training step by the entry's key.
        configs: folder with the names and published scores.

    Raises:
        UserError: if a score is of no config.
    """
    if unknown := set(measured) - {entry.config for entry in entries}:
        raise UserError(f"zoo_scores.json: no such config: {min(unknown)}")
    methods, prefix = Methods(configs), f"{ABLATIONS}#ms3_"
    return render(
        "zoo.md.j2",
        entries=entries,
        measured=measured,
        memory=memory,
        methods=methods,
        papers={method.name: method.paper for name, (method, _) in methods.configs.items() if "baselines/" in name},
        ablations=Ablations(configs),
        costs={e.config.removeprefix(prefix): e.cells for e in entries if e.config.startswith(prefix)},
        percent=percent,
        best=lambda config: measured_score(measured, config),
    )


def estimate_memory(configs: Path) -> dict[str, int]:
    """Estimate the peak bytes of a training step of every config in the tables of models, by a dry run of each."""
    known, found = dict[str, int](), dict[str, int]()
    for cfg, name, option in sized_configs(configs, Methods(configs)):
        key = json.dumps([cfg.model.to_dict(), batch_shape(cfg)], sort_keys=True)
        if key not in known:
            known[key] = dry_run(cfg).peak_bytes
        found[f"{name} {option}".strip()] = known[key]
    return found


def current_page(configs: Path, docs: Path) -> str:
    """Return the page for the configs under `configs`, with the scores and estimates in the JSON files of `docs`."""
    files = docs / "zoo_scores.json", docs / "zoo_memory.json"
    measured, memory = (read_json(file) if file.is_file() else {} for file in files)
    return page(collect(configs), measured, memory, configs)


def add_score(scores: Path, config: str, metrics: Path) -> None:
    """Add what tools/test.py wrote (`metrics.json`, and the `env.json` of its log) to the file of scores.

    A score of the same config and sound is replaced.

    Raises:
        UserError: naming the file that is missing.
    """
    name = re.sub(r"^(.*/)?configs/|\.yaml$", "", config)
    found = read_json(metrics)
    logs = sorted(metrics.parent.glob("*/env.json"))
    if not logs:
        raise UserError(f"{metrics.parent / '*/env.json'}: no such file: the log of the test has date and command")
    env, day = read_json(logs[-1]), logs[-1].parent.name
    run = {
        "sound": found["audio"],
        "clips": found["clips"],
        **{key: round(found["frame"][key], 4) for key in ("M_J", "M_F")},
        "date": f"{day[:4]}-{day[4:6]}-{day[6:8]}",
        **{key: env[key] for key in ("commit", "device", "command")},
    }
    known = read_json(scores) if scores.is_file() else {}
    kept = [r for r in known.get(name, []) if r["sound"] != run["sound"]]
    known[name] = [*kept, run]
    with atomic_write(scores) as path:
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
