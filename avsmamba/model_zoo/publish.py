"""Reduce a training's checkpoint to a shipped model: `avsmamba ship`."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from avsmamba.checkpoint.build import build_model
from avsmamba.checkpoint.reading import find_state_dict, read_file
from avsmamba.choices import WEIGHT_DTYPES
from avsmamba.config import yaml_io
from avsmamba.config.load import flat_values, load_config
from avsmamba.markdown import table
from avsmamba.model_zoo.bundled import CARD, models_folder, sha256
from avsmamba.utils import UserError, read_json

MOST_BYTES = 10_000_000
DTYPES = {name: getattr(torch, name) for name in WEIGHT_DTYPES}
_FROM_ENV = ("command", "commit", "seed", "device", "torch")


def ship_model(
    config: str | Path,
    checkpoint: str | Path,
    name: str,
    scores: Sequence[str],
    about: str,
    commands: Sequence[str] = (),
    out: str | Path | None = None,
    dtype: str = "float32",
) -> Path:
    """Write the folder of a model: config without bases, weights alone, `card.json` and `README.md`.

    Args:
        config: YAML file that the model was trained with.
        checkpoint: of the training, with its `env.json` in the same folder.
        name: of the model: lower-case letters, digits, `_` and `-`.
        scores: `metrics.json` or `robustness.json` of `avsmamba test`, each as `PATH` or `WHAT=PATH`, where WHAT names
            the data (default: the name of the file's folder).
        about: a sentence or two: what the model was trained on.
        commands: run before the training, to create the data.
        out: folder of all models; default: the package's.
        dtype: of the weights: 'float32' (the scores are exactly those of the training) or 'float16' (half as large).

    Returns:
        The folder. An existing one is replaced when the new one is complete.

    Raises:
        UserError: if a file is missing or faulty, the weights do not fit the config, or they take 10 MB or more.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == "demo":
        raise UserError(f"--name: expected lower-case letters, digits, _ and -, and not 'demo', got {name!r}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    content, cfg = read_file(checkpoint), load_config(config)
    weights = {"state_dict": find_state_dict(content, checkpoint)}
    model = build_model(cfg.model, checkpoint, content=weights, warn=_refuse)
    if any(not value.isfinite().all() for value in model.state_dict().values()):
        raise UserError(f"{checkpoint}: contains weights that are not finite")
    rows = [row for word in scores for row in read_scores(word)]
    target = Path(out or models_folder()) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        files = [folder / f"{name}.yaml", folder / f"{name}.pth"]
        files[0].write_text(yaml_io.dump(flat_values(config)), encoding="utf-8")
        torch.save(_stripped(model.state_dict(), content, DTYPES[dtype]), files[1])
        if files[1].stat().st_size >= MOST_BYTES:
            raise UserError(
                f"{checkpoint}: {files[1].stat().st_size} bytes of weights; a shipped model has less than 10 MB"
            )
        card = {
            "name": name,
            "about": about,
            "config": files[0].name,
            "checkpoint": files[1].name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": dtype,
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files},
            "scores": rows,
            "training": {"config": str(config), "before": list(commands), **_training(content, Path(checkpoint))},
        }
        (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(readme(card), encoding="utf-8")
        folder.chmod(0o755)
        _replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def read_scores(word: str) -> list[dict[str, Any]]:
    """Read a file of `avsmamba test` to a row for each sound: `of`, `sound`, `clips`, `frames`, `M_J`, `M_F`.

    A row of `robustness.json` also has `marked_frames`, the share of frames with a marked pixel. M_J and M_F are
    against the clip's own masks (protocol frame), also with a wrong sound.

    Raises:
        UserError: if the file is missing or of another kind.
    """
    what, equals, text = word.partition("=")
    path = Path(text if equals else word)
    found = read_json(path)
    counts: dict[str, Any] = {"of": what if equals else path.parent.name}
    counts |= {key: found[key] for key in ("clips", "frames") if key in found}
    try:
        if "sounds" in found:
            rows = [
                {
                    **counts,
                    "sound": sound,
                    **_m(row["own"]["frame"]),
                    "marked_frames": round(row["marked"]["frames"], 4),
                }
                for sound, row in found["sounds"].items()
            ]
        else:
            rows = [{**counts, "sound": found["audio"], **_m(found["frame"])}]
    except (KeyError, TypeError):
        raise UserError(f"{path}: expected metrics.json or robustness.json of avsmamba test") from None
    for env in [path.parent / "env.json", *sorted(path.parent.glob("*/env.json"))][-1:]:
        if env.is_file():
            rows[0]["command"] = read_json(env)["command"]
    return rows


def readme(card: Mapping[str, Any]) -> str:
    """Format a card as Markdown."""
    training = card["training"]
    lines = [
        f"# {card['name']}",
        "",
        card["about"],
        "",
        f"{card['parameters']} parameters, {card['dtype']}. Written by `avsmamba ship`, as is `{CARD}`, which has the "
        "same content for programs.",
        "",
        table(
            ("file", "bytes", "SHA-256"),
            [(f"`{name}`", file["bytes"], f"`{file['sha256']}`") for name, file in card["files"].items()],
            "lrl",
        ),
    ]
    if card["scores"]:
        head = ("scored on", "sound", "clips", "frames", "M_J", "M_F", "frames marked")
        rows = []
        for row in card["scores"]:
            marked = f"{100 * row['marked_frames']:.1f} %" if "marked_frames" in row else "–"
            counts = (row[key] for key in ("of", "sound", "clips", "frames"))
            rows.append((*counts, f"{row['M_J']:.4f}", f"{row['M_F']:.4f}", marked))
        lines += [
            "",
            table(head, rows, "llrrrrr"),
            "",
            "M_J and M_F are against the clips' own masks, also with a wrong sound: there the model should score low "
            "and mark no frame.",
        ]
    commands = [*training["before"], *([training["command"]] if "command" in training else [])]
    commands += [row["command"] for row in card["scores"] if "command" in row]
    if commands:
        lines += ["", "Commands of the training and the tests:", "", "```bash", *commands, "```"]
    facts = [f"{key} {training[key]}" for key in ("iterations", "date", *_FROM_ENV[1:]) if key in training]
    return "\n".join(lines + (["", f"{', '.join(facts)}."] if facts else [])) + "\n"


def _m(scores: Mapping[str, float]) -> dict[str, float]:
    return {key: round(float(scores[key]), 4) for key in ("M_J", "M_F")}


def _refuse(message: str) -> None:
    raise UserError(message)


def _stripped(weights: Mapping[str, torch.Tensor], content: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the weights and the names of the classes, without the rest of a checkpoint."""
    state = {k: v.detach().to(dtype if v.is_floating_point() else v.dtype).clone() for k, v in weights.items()}
    meta = content.get("meta") if isinstance(content, Mapping) else None
    classes = [str(name) for name in ((meta or {}).get("dataset_meta") or {}).get("classes") or ()]
    return {"state_dict": state, "meta": {"dataset_meta": {"classes": classes}}}


def _training(content: Any, checkpoint: Path) -> dict[str, Any]:
    """Return iterations, date and environment of a training from its checkpoint and `env.json`, if they have them."""
    meta = (content.get("meta") if isinstance(content, Mapping) else None) or {}
    training: dict[str, Any] = {"iterations": int(meta["iter"])} if "iter" in meta else {}
    day = str(meta.get("time", ""))
    if re.match(r"\d{8}_", day):
        training["date"] = f"{day[:4]}-{day[4:6]}-{day[6:8]}"
    env = checkpoint.parent / "env.json"
    if env.is_file():
        training |= {key: value for key, value in read_json(env).items() if key in _FROM_ENV}
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
