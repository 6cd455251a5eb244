"""Score a checkpoint on a config's test set: `avsmamba test`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process

from avsmamba.checkpoint.build import drop_pretrained
from avsmamba.choices import SOUNDS
from avsmamba.config.load import data_sets, load_config, parse_options
from avsmamba.engine.distributed import process_group
from avsmamba.engine.optim import amp_dtype
from avsmamba.engine.runner import AVSRunner, skip_conventions
from avsmamba.engine.work_dir import set_work_dir
from avsmamba.evaluation.conventions import convention_key
from avsmamba.utils import UserError, atomic_write

_TRAINING_KEYS = ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr")
_VALIDATION_KEYS = ("val_dataloader", "val_cfg", "val_evaluator")
_SCORES = ("M_J", "M_F")
_WORDS = {"no_background": "no background", "present": "classes present"}
# AVSSMetric's further scores: place in metrics.json, prefix of their names, and place below it.
_GROUPS = (
    ("frame", "", "no_background"),
    ("frame", "", "present"),
    ("avsbench", "avsbench/", "no_background"),
)


def evaluate(
    config: str | Path,
    checkpoint: str | Path,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    audio: str = "real",
    launcher: str = "none",
    options: Sequence[str] = (),
    data_root: str | None = None,
    amp: bool = False,
    conventions: bool = True,
) -> dict[str, Any]:
    """Score a checkpoint on a config's test set, print the main scores and write all to `metrics.json`.

    Args:
        config: YAML file.
        checkpoint: file with all of the model's weights.
        work_dir: for `metrics.json` and the log; default: the config's, else `work_dirs/` and the config's name.
        out: folder for the predicted masks in AVSBench's layout.
        show_dir: folder for pictures.
        audio: 'real', or a replacement of the sound: see `avsmamba.datasets.avsbench.AVSBench`.
        launcher: 'none', 'pytorch' or 'slurm'.
        options: `key=value` strings that override the config.
        data_root: folder with `Single-source/`, `Multi-sources/` and `AVSS/`.
        amp: run the model in mixed precision (bfloat16 on the CPU); scores are computed as without it.
        conventions: whether to score under all conventions, or only under the protocols frame and avsbench.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: if the config, its data or the checkpoint is missing or faulty.
    """
    cfg = config_for_test(config, checkpoint, audio, work_dir, out, show_dir, options, data_root)
    if not conventions:
        skip_conventions(cfg.test_evaluator)
    with process_group(cfg, launcher):
        runner = AVSRunner.from_cfg(cfg)
        if amp:
            use_mixed_precision(runner)
        metrics = report(runner.test(), audio)
        if amp:
            metrics["amp"] = str(amp_dtype()).removeprefix("torch.")
        if is_main_process():
            with atomic_write(Path(cfg.work_dir) / "metrics.json") as path:
                path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
            print(table(metrics))
            print(f"written to {Path(cfg.work_dir) / 'metrics.json'}")
    return metrics


def use_mixed_precision(runner: AVSRunner) -> None:
    """Run the model under autocast in tests."""
    runner.model.test_step = torch.autocast(get_device(), amp_dtype())(runner.model.test_step)


def config_for_test(
    config: str | Path,
    checkpoint: str | Path,
    audio: str,
    work_dir: str | None,
    out: str | None,
    show_dir: str | None,
    options: Sequence[str],
    data_root: str | None,
) -> Config:
    """Load a config and prepare it for a test of a checkpoint; arguments as in `evaluate`.

    Raises:
        UserError: if the config or the checkpoint is missing, the config has no test, or `audio` is unknown.
    """
    cfg = load_config(config, parse_options(options), data_root)
    if not Path(checkpoint).is_file():
        raise UserError(f"{checkpoint}: no such checkpoint")
    if cfg.get("test_cfg") is None:
        raise UserError(f"{config}: has no test_cfg: nothing to test")
    if audio not in SOUNDS:
        raise UserError(f"--audio: expected one of {', '.join(SOUNDS)}, got {audio!r}")
    set_work_dir(cfg, work_dir, config)
    prepare_test(cfg, str(checkpoint), audio, out, show_dir)
    return cfg


def prepare_test(cfg: Config, checkpoint: str, audio: str, out: str | None, show_dir: str | None) -> None:
    """Change a config to one without training and validation, for one checkpoint and sound."""
    for key in (*_TRAINING_KEYS, *_VALIDATION_KEYS):
        cfg[key] = None
    cfg.load_from, cfg.resume = checkpoint, False
    for dataset in data_sets(cfg.test_dataloader.dataset):
        if audio != "real" or "audio" in dataset:
            dataset["audio"] = audio
    if out or show_dir:
        hook = {"type": "VisualizationHook", "show_dir": show_dir, "out_dir": out}
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), hook]
    drop_pretrained(cfg.model)


def report(scores: Mapping[str, Any], audio: str) -> dict[str, Any]:
    """Return the content of `metrics.json` from the scores of AVSMetric or AVSSMetric.

    `foreground` is the share of pixels predicted as such. With AVSSMetric there are also `no_background` under each
    protocol, `present` under frame, and `classes`: IoU, F and the number of frames by name. `conventions` has M_J and
    M_F under each convention by its key, `{grouping}/{size}`, and `convention` those of the method's own paper, with
    its name; see docs/scores.md.

    Raises:
        UserError: if the scores are those of another metric.
    """
    try:
        metrics: dict[str, Any] = {"audio": audio, "clips": int(scores["clips"]), "frames": int(scores["frames"])}
        for protocol, prefix in (("frame", ""), ("avsbench", "avsbench/")):
            metrics[protocol] = {name: float(scores[prefix + name]) for name in _SCORES}
    except KeyError as error:
        raise UserError(f"test_evaluator: returns no {error}; metrics.json needs AVSMetric or AVSSMetric") from None
    if "avsbench/batch_size" in scores:
        metrics["avsbench"]["batch_size"] = int(scores["avsbench/batch_size"])
    for protocol, prefix, group in _GROUPS:
        if f"{prefix}{group}/M_J" in scores:
            metrics[protocol][group] = {name: float(scores[f"{prefix}{group}/{name}"]) for name in _SCORES}
    if "foreground" in scores:
        metrics["foreground"] = float(scores["foreground"])
    every: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        kind, _, rest = key.partition("/")
        row, _, score = rest.rpartition("/")
        if kind == "convention":
            semantic = any(k.startswith("class/") for k in scores)
            chosen = metrics.setdefault("convention", {"name": row, "key": convention_key(row, semantic)})
            chosen[score] = float(value)
        elif kind == "conventions":
            every.setdefault(row, {})[score] = float(value)
    if every:
        metrics["conventions"] = every
    classes: dict[str, Any] = {}
    for key, value in scores.items():
        if key.startswith("class/"):
            name, _, score = key.removeprefix("class/").rpartition("/")
            classes.setdefault(name, {})[score] = int(value) if score == "frames" else float(value)
    return metrics | ({"classes": classes} if classes else {})


def table(metrics: Mapping[str, Any]) -> str:
    """Format the scores of the method's own convention, of both protocols and of each class for the terminal."""
    head = f"{metrics['clips']} clips, {metrics['frames']} frames, sound: {metrics['audio']}"
    if "foreground" in metrics:
        head += f", foreground: {100 * metrics['foreground']:.2f} % of the pixels"
    if "amp" in metrics:
        head += f", {metrics['amp']}"
    batch = metrics["avsbench"].get("batch_size")
    rows = []
    if "convention" in metrics:
        rows.append((f"{metrics['convention']['name']} ({metrics['convention']['key']})", metrics["convention"]))
    for key, title in (("frame", "frame"), ("avsbench", f"avsbench (batch {batch})" if batch else "avsbench")):
        for group in ("", "no_background", "present"):
            found = metrics[key].get(group) if group else metrics[key]
            if found:
                rows.append((f"{title}, {_WORDS[group]}" if group else title, found))
    width = max(26, *(len(title) + 2 for title, _ in rows))
    lines = [head, f"{'protocol':<{width}}{'M_J':>8}{'M_F':>8}"]
    lines += [f"{title:<{width}}{found['M_J']:>8.4f}{found['M_F']:>8.4f}" for title, found in rows]
    if "classes" in metrics:
        lines.append(f"{'class':<{width}}{'IoU':>8}{'F':>8}{'frames':>8}")
        classes = metrics["classes"].items()
        lines += [f"{name:<{width}}{c['IoU']:>8.4f}{c['F']:>8.4f}{c['frames']:>8}" for name, c in classes]
    return "\n".join(lines)
