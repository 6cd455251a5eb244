"""The zoo: every config with its size, its cost, the paper's score and ours. What tools/zoo.py prints and writes."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import avsmamba.ops.flops  # noqa: F401  (the counter learns of our operators)
from avsmamba.config.load import load_config
from avsmamba.engine.dry_run import batch_shape, dry_run
from avsmamba.engine.evaluate import drop_pretrained
from avsmamba.registry import MODELS
from avsmamba.reports.ablate import read_json
from avsmamba.reports.paper_tables import ABLATIONS, FULL, OBJECT, SEMANTIC, Score
from avsmamba.utils import UserError, atomic_write

METHODS = {"avs_mamba": "AVS-Mamba", "tpavi": "TPAVI", "avsegformer": "AVSegFormer"}
# The words of the configs' names, what they stand for, and how the paper's Tables I and II call them.
BACKBONES = {
    "pvtv2b5": ("PVT-v2 b5", "PVT-v2"),
    "r50": ("ResNet-50", "ResNet50"),
    "vmamba_b": ("VMamba-B", None),
    "vim_b": ("Vim-B", None),
    "vmamba_t": ("VMamba-T", None),
    "vim_s": ("Vim-S", None),
    "tiny": ("small, from scratch", None),
}
DATA = {"s4": "S4", "ms3": "MS3", "avss": "AVSS"}
GENERATED = ("shapes", "comparison")  # in place of a size: SoundingShapes
_NAME = re.compile(
    rf"(?P<method>{'|'.join(METHODS)})_(?P<backbone>{'|'.join(BACKBONES)})_(?P<data>{'|'.join(DATA)})"
    rf"_(?P<size>\d+|{'|'.join(GENERATED)})"
    "(?P<negatives>_negatives)?(?P<hard>_hard)?"
)
FRAMES = 5  # of a clip of S4 and MS3; AVSS says its own


@dataclass(frozen=True)
class Entry:
    """One config of the zoo.

    Attributes:
        config: its path under `configs/`, without the ending.
        size: height and width in testing, pixels.
        frames: of a clip.
        parameters: of the model.
        flops: floating point operations of one clip, forward; a multiply-add counts two.
    """

    config: str
    size: int
    frames: int
    parameters: int
    flops: int

    @property
    def name(self) -> str:
        return self.config.rpartition("/")[2]

    @property
    def cells(self) -> list[str]:
        """Parameters and GFLOPs for a table."""
        return [f"{self.parameters / 1e6:.2f}", f"{self.flops / 1e9:.{1 if self.flops > 1e10 else 2}f}"]


class Costs:
    """Parameters and operations of configs, on the meta device: no weight is made and nothing is computed.

    Models and counts are kept, since many configs differ in their data only.
    """

    def __init__(self) -> None:
        self.models: dict[str, nn.Module] = {}
        self.counts: dict[tuple[str, int, int], int] = {}

    def entry(self, path: Path, root: Path) -> Entry:
        """The zoo's entry of the config at `path`; names are relative to `root`.

        Raises:
            UserError: if the config is at fault or its tests do not resize to one size.
        """
        cfg = load_config(path)
        key, model = self.model(cfg)
        size, frames = clip_shape(cfg, path)
        if (key, size, frames) not in self.counts:
            self.counts[key, size, frames] = count_flops(model, size, frames)
        parameters = sum(p.numel() for p in model.parameters())
        name = path.relative_to(root).with_suffix("").as_posix()
        return Entry(name, size, frames, parameters, self.counts[key, size, frames])

    def model(self, cfg: Config) -> tuple[str, nn.Module]:
        """The model on the meta device, and what it is kept by: its config but for losses and files."""
        drop_pretrained(cfg.model)
        key = json.dumps({k: v for k, v in cfg.model.to_dict().items() if not k.endswith("losses")}, sort_keys=True)
        if key not in self.models:
            with torch.device("meta"):
                self.models[key] = MODELS.build(cfg.model).eval().requires_grad_(False)
        return key, self.models[key]


def clip_shape(cfg: Config, path: Path) -> tuple[int, int]:
    """Height and width, and frames, of a test clip."""
    dataset = cfg.test_dataloader.dataset
    sizes = [t["size"] for t in dataset.get("pipeline") or [] if t.get("type") == "Resize"]
    if len(sizes) != 1 or not isinstance(sizes[0], int):
        raise UserError(f"{path}: test_dataloader.dataset.pipeline: the zoo expects one Resize with one number")
    return sizes[0], dataset.get("num_frames", FRAMES)


@torch.no_grad()
def count_flops(model: nn.Module, size: int, frames: int) -> int:
    """Operations of one clip through a model on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, frames, 3, size, size, device="meta"), torch.empty(1, frames, 1, 96, 64, device="meta"))
    return counter.get_total_flops()


def collect(root: Path) -> list[Entry]:
    """All configs under `root` but for the bases, by folder and name."""
    paths = sorted(p for p in root.rglob("*.yaml") if "_base_" not in p.relative_to(root).parts)
    costs = Costs()
    return [costs.entry(path, root) for path in paths]


def published(name: str) -> Score | None:
    """Return what Tables I and II of the paper print for a config's method, backbone and data.

    AVS-Mamba's authors train and test S4 and MS3 at 512 pixels and AVSS at 224; the other methods' figures are of 224.
    None where the tables print nothing for the config's size.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    size = "512" if match["method"] == "avs_mamba" and match["data"] != "avss" else "224"
    if match["size"] != size:
        return None
    method, (_, backbone) = METHODS[match["method"]], BACKBONES[match["backbone"]]
    if match["data"] == "avss":
        return next((score for m, b, score in SEMANTIC if (m, b) == (method, backbone)), None)
    return next(
        (s4 if match["data"] == "s4" else ms3 for m, b, s4, ms3 in OBJECT if (m, b) == (method, backbone)), None
    )


def percent(score: Sequence[float] | None) -> str:
    """`M_J / M_F` in percent."""
    return "–" if score is None else " / ".join(f"{value:.1f}" for value in score)


Measured = Mapping[str, Sequence[Mapping[str, Any]]]


def measured_score(measured: Measured, config: str) -> Score | None:
    """Ours, with the real sound; the last one where there are several."""
    runs = [run for run in measured.get(config, ()) if run["sound"] == "real"]
    return (100 * runs[-1]["M_J"], 100 * runs[-1]["M_F"]) if runs else None


def models_table(entries: Iterable[Entry], measured: Measured, memory: Mapping[str, int]) -> str:
    """Write the table of AVS-Mamba's configs, or of the baselines'.

    Args:
        entries: of the configs.
        measured: scores that were reached here.
        memory: estimated peak bytes of a training step by config.
    """
    head = ["config", "model", "data", "size", "parameters, M", "GFLOPs", "training memory, GB (estimate)"]
    head += ["paper M_J / M_F", "here M_J / M_F"]
    rows = []
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None:
            raise UserError(f"configs/{entry.config}.yaml: expected a name like avs_mamba_pvtv2b5_ms3_224")
        model = f"{METHODS[match['method']]}, {BACKBONES[match['backbone']][0]}"
        data = f"SoundingShapes {DATA[match['data']]}" if match["size"] in GENERATED else DATA[match["data"]]
        data += ", with wrong sounds" if match["negatives"] else ""
        data += ", hard, with wrong sounds" if match["hard"] else ""
        scores = [percent(published(entry.name)), percent(measured_score(measured, entry.config))]
        bytes_of_step = memory.get(entry.config)
        gigabytes = "–" if bytes_of_step is None else f"{bytes_of_step / 1e9:.1f}"
        rows.append([f"`{entry.config}`", model, data, str(entry.size), *entry.cells, gigabytes, *scores])
    return lines(head, rows)


def ablations_table(entries: Sequence[Entry]) -> str:
    """The paper's Tables III to VII, each row with its configs."""
    known = {entry.name: entry for entry in entries}
    rows = []
    for number, (_, table) in ABLATIONS.items():
        for row in table:
            if row.variant == FULL:
                continue
            entry = known[f"ms3_{row.variant}"]
            label = f"{row.label} orders" if number == "VII" else row.label
            rows.append([number, label, f"`*_{row.variant}`", *entry.cells, percent(row.ms3), percent(row.s4)])
    return lines(["table", "", "configs", "parameters, M", "GFLOPs", "paper, MS3", "paper, S4"], rows)


def measured_table(measured: Measured) -> str:
    """Every score that was reached here, and how."""
    rows = [
        [
            f"`{config}`",
            run["sound"],
            str(run["clips"]),
            percent((100 * run["M_J"], 100 * run["M_F"])),
            run["date"],
            f"`{run['commit']}`",
            f"`{run['command']}`",
        ]
        for config, runs in measured.items()
        for run in runs
    ]
    return lines(["config", "sound", "clips", "M_J / M_F", "date", "commit", "command"], rows)


def paper_tables(names: Iterable[str]) -> str:
    """Tables I and II as published; `names` are the configs that exist here."""
    matches = [match for match in map(_NAME.fullmatch, names) if match and match["size"] not in GENERATED]
    here = {(METHODS[m["method"]], BACKBONES[m["backbone"]][1], DATA[m["data"]]) for m in matches}

    def runs(method: str, backbone: str, *data: str) -> str:
        return ", ".join(d for d in data if (method, backbone, d) in here) or "–"

    first = [[m, b, percent(s4), percent(ms3), runs(m, b, "S4", "MS3")] for m, b, s4, ms3 in OBJECT]
    second = [[m, b, percent(score), runs(m, b, "AVSS")] for m, b, score in SEMANTIC]
    return (
        "### Table I: S4 and MS3\n\n"
        + lines(["method", "backbone", "S4, M_J / M_F", "MS3, M_J / M_F", "configs here"], first)
        + "\n\n### Table II: AVSBench-semantic\n\n"
        + lines(["method", "backbone", "M_J / M_F", "configs here"], second)
    )


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def page(entries: Sequence[Entry], measured: Measured, memory: Mapping[str, int]) -> str:
    """Return the text of `docs/zoo.md`; arguments as in `models_table`.

    Raises:
        UserError: if a score is of no config.
    """
    unknown = set(measured) - {entry.config for entry in entries}
    if unknown:
        raise UserError(f"zoo_scores.json: no such config: {min(unknown)}")

    def under(folder: str) -> list[Entry]:
        return [entry for entry in entries if entry.config.startswith(f"{folder}/")]

    parts = [
        "# The zoo",
        "Written by `python tools/zoo.py --write`; not by hand. Scores are M_J and M_F in percent.",
        "*Parameters* are the whole model's, VGGish included (72.1 M of every full-size one). *GFLOPs* are of one clip "
        f"({FRAMES} frames, AVSS 10), forward; a multiply-add counts two, and the scans and convolutions of our own by "
        "`avsmamba/ops/flops.py`. *Training memory* is the estimated peak of one training step in float32, with the "
        "config's batch and AdamW's state, by a dry run with fake tensors (`tools/zoo.py --memory`): no GPU has "
        "measured it, and what kernels need for themselves is not in it. *Paper* is what its Tables I and II print; "
        "its authors train and test S4 and MS3 at 512 pixels and AVSS at 224 ([which numbers compare](scores.md)). "
        "*Here* is what was trained and measured with this code, each with its "
        "command below; nothing has been trained on AVSBench here.",
        "## AVS-Mamba",
        models_table(under("avs_mamba"), measured, memory),
        "## Baselines",
        "From their papers, with AVS-Mamba's data and metrics and their own losses and schedules "
        "([notes](paper_notes.md)).",
        models_table(under("baselines"), measured, memory),
        "## Ablations",
        "Tables III to VII: `configs/ablations/ms3_*` and `s4_*` over PVT-v2 b5 at 512 pixels; the published scores of "
        "the whole model are 68.6 / 78.8 and 85.0 / 92.6. `tiny_*` are the same for a small model, which "
        "`tools/ablate.py` trains.",
        ablations_table(under("ablations")),
        "## What was run here",
        measured_table(measured),
        "## The paper's tables",
        "Tables I and II of the AVS-Mamba paper, as published; nothing in them was measured here.",
        paper_tables(entry.name for entry in entries),
    ]
    return "\n\n".join(parts) + "\n"


def estimate_memory(root: Path) -> dict[str, int]:
    """Estimate the peak bytes of a training step of every config in the tables of models, by a dry run of each."""
    known: dict[str, int] = {}
    found: dict[str, int] = {}
    for path in sorted(p for folder in ("avs_mamba", "baselines") for p in (root / folder).glob("*.yaml")):
        cfg = load_config(path)
        key = json.dumps([cfg.model.to_dict(), batch_shape(cfg)], sort_keys=True)
        if key not in known:
            known[key] = dry_run(cfg).peak_bytes
        found[path.relative_to(root).with_suffix("").as_posix()] = known[key]
    return found


def write(root: Path, scores: Path, target: Path, memory: Path) -> list[Entry]:
    """Write the zoo's page for the configs under `root`, with the scores and the estimates in two JSON files."""
    entries = collect(root)
    text = page(entries, *(read_json(file) if file.is_file() else {} for file in (scores, memory)))
    with atomic_write(target) as path:
        path.write_text(text, encoding="utf-8")
    return entries


def add_score(scores: Path, config: str, metrics: Path) -> None:
    """Put what tools/test.py wrote (`metrics.json`, and the `env.json` of its log) into the file of scores.

    A score of the same config and sound is replaced.

    Raises:
        UserError: naming the file that is missing.
    """
    name = re.sub(r"^(.*/)?configs/|\.yaml$", "", config)
    found = read_json(metrics)
    logs = sorted(metrics.parent.glob("*/env.json"))
    if not logs:
        raise UserError(f"{metrics.parent / '*/env.json'}: no such file: the log of the test tells date and command")
    env, day = read_json(logs[-1]), logs[-1].parent.name
    run = {
        "sound": found["audio"],
        "clips": found["clips"],
        **{key: round(found["frame"][key], 4) for key in ("M_J", "M_F")},
        "date": f"{day[:4]}-{day[4:6]}-{day[6:8]}",
        "commit": env["commit"],
        "device": env["device"],
        "command": env["command"],
    }
    known = read_json(scores) if scores.is_file() else {}
    kept = [r for r in known.get(name, []) if r["sound"] != run["sound"]]
    known[name] = [*kept, run]
    with atomic_write(scores) as path:
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
