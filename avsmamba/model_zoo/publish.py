"""Write a trained model as a folder in the hub's form: `avsmamba publish`."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from avsmamba.checkpoint.build import build_model
from avsmamba.checkpoint.reading import SAFETENSORS_META, compare, find_state_dict, name_some, read_file
from avsmamba.checkpoint.released import READING, is_released
from avsmamba.choices import WEIGHT_DTYPES
from avsmamba.config import yaml_io
from avsmamba.config.load import data_sets, flat_values, load_config
from avsmamba.model_zoo.card import FROM_ENV, read_scores, readme
from avsmamba.model_zoo.folder import CARD, CONFIG, FILES, README, WEIGHTS, sha256
from avsmamba.utils import UserError, read_json
from avsmamba.version import __version__

DTYPES = {name: getattr(torch, name) for name in WEIGHT_DTYPES}
# Keys of a config that name files of the machine that trained.
_OF_THE_MACHINE = ("work_dir", "load_from")


def publish_model(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    scores: Sequence[str] = (),
    about: str = "",
    license: str = "unknown",
    commands: Sequence[str] = (),
    dtype: str = "float32",
    hub: str | None = None,
) -> Path:
    """Write the folder of a model: `config.yaml` without bases, `model.safetensors`, `card.json` and `README.md`.

    Args:
        config: YAML file that the model was trained with.
        checkpoint: of the training, with its `env.json` in the same folder.
        out: the folder; its name is the model's: letters, digits, `.`, `_` and `-`. An existing one of a published
            model is replaced when the new one is complete.
        scores: `metrics.json` or `robustness.json` of `avsmamba test`, each as `PATH` or `WHAT=PATH`, where WHAT names
            the data (default: the name of the file's folder).
        about: a sentence or two: what the model was trained on. Default: its config and data.
        license: of the weights, by the hub's identifiers: 'apache-2.0', 'cc-by-nc-4.0', …
        commands: run before the training, to create the data.
        dtype: of the weights: 'float32' (the scores are exactly those of the training) or 'float16' (half as large).
        hub: `USER/NAME` to which the folder will be uploaded, for the card.

    Returns:
        The folder.

    Raises:
        UserError: if a file is missing or faulty, the weights do not fit the config or are not finite, or `out`
            contains other files.
    """
    target = Path(out).expanduser().absolute()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", target.name, re.ASCII):
        raise UserError(f"--out: expected a folder named by letters, digits, '.', _ and -, got {str(out)!r}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(f"--license: expected an identifier like apache-2.0 or cc-by-nc-4.0, got {license!r}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    refuse_other_files(target)
    content, cfg = read_file(checkpoint), load_config(config)
    state, meta = _weights(content, cfg.model, checkpoint, DTYPES[dtype])
    rows = [row for word in scores for row in read_scores(word)]
    values = {key: value for key, value in flat_values(config).items() if key not in _OF_THE_MACHINE}
    card: dict[str, Any] = {
        "name": target.name,
        "about": about or f"A model of audio-visual segmentation, trained with {Path(config).name}{_data(cfg)}.",
        "license": license,
        "hub": hub,
        "avsmamba": __version__,
        "config": CONFIG,
        "checkpoint": WEIGHTS,
        "parameters": meta.pop("parameters"),
        "dtype": dtype,
        "split": next((d.get("split", "test") for d in _sets(cfg, "test_dataloader")), "test"),
        "scores": rows,
        "training": {"config": str(config), "before": list(commands), **_training(content, Path(checkpoint))},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        (folder / CONFIG).write_text(yaml_io.dump(values), encoding="utf-8")
        save_file(state, folder / WEIGHTS, {"format": "pt", SAFETENSORS_META: json.dumps(meta)})
        write_card(folder, card)
        folder.chmod(0o755)
        for path in folder.iterdir():  # safetensors writes for the owner alone
            path.chmod(0o644)
        _replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def refuse_other_files(folder: Path) -> None:
    """Raise a UserError unless a folder is new, empty, or contains a published model and nothing else."""
    others = sorted({path.name for path in folder.iterdir()} - {*FILES}) if folder.is_dir() else []
    if others or folder.is_file():
        raise UserError(
            f"--out: {folder}: expected a new folder or a published model's; it contains {name_some(others)}"
        )


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `card.json`, with the SHA-256 of config and weights, and `README.md`."""
    paths = [folder / name for name in (CONFIG, WEIGHTS)]
    card["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / README).write_text(readme(card), encoding="utf-8")


def _weights(
    content: Any, model_config: Mapping[str, Any], checkpoint: str | Path, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the weights, and the number of parameters, the classes and the reading of a checkpoint's `meta`."""
    weights = find_state_dict(content, checkpoint)
    found = (content.get("meta") if isinstance(content, Mapping) else None) or {}
    model = build_model(model_config, checkpoint, content={"state_dict": weights, "meta": found})
    state = model.state_dict()
    if not is_released(weights) and (extra := compare(state, weights).unexpected):
        raise UserError(f"{checkpoint}: {len(extra)} tensors in it are not the model's: {name_some(extra)}")
    if any(not value.isfinite().all() for value in state.values()):
        raise UserError(f"{checkpoint}: contains weights that are not finite")
    classes = [str(name) for name in (found.get("dataset_meta") or {}).get("classes") or ()]
    meta: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "dataset_meta": {"classes": classes},
    }
    if hasattr(model, READING):
        meta[READING] = getattr(model, READING)
    # Cloned, since safetensors refuses tensors that share memory.
    return {
        name: value.detach().to(dtype if value.is_floating_point() else value.dtype).contiguous().clone()
        for name, value in state.items()
    }, meta


def _sets(cfg: Mapping[str, Any], loader: str) -> list[dict[str, Any]]:
    return list(data_sets((cfg.get(loader) or {}).get("dataset") or []))


def _data(cfg: Mapping[str, Any]) -> str:
    """Return the training data as text: ` on FOLDER (TYPE)`, empty without any."""
    found = [f"{Path(str(d.get('data_root', '?'))).name} ({d.get('type')})" for d in _sets(cfg, "train_dataloader")]
    return f" on {', '.join(dict.fromkeys(found))}" if found else ""


def _training(content: Any, checkpoint: Path) -> dict[str, Any]:
    """Return iterations, date and environment of a training from its checkpoint and `env.json`, if they have them."""
    meta = (content.get("meta") if isinstance(content, Mapping) else None) or {}
    training: dict[str, Any] = {"iterations": int(meta["iter"])} if "iter" in meta else {}
    day = str(meta.get("time", ""))
    if re.match(r"\d{8}_", day):
        training["date"] = f"{day[:4]}-{day[4:6]}-{day[6:8]}"
    env = checkpoint.parent / "env.json"
    if env.is_file():
        training |= {key: value for key, value in read_json(env).items() if key in FROM_ENV}
    return training


def _replace(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; an existing target is removed at the end."""
    if not target.exists():
        folder.rename(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    folder.rename(target)
    shutil.rmtree(old)
