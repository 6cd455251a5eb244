"""Find the models that are shipped with the package and verify their files.

They are in `models/` of the source tree and in `avsmamba/shipped_models/` of a wheel: a folder for each, with
`card.json`, the config and the weights. They were trained on generated shapes, not on real videos.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsmamba.choices import DEFAULT_MODEL as DEFAULT
from avsmamba.utils import UserError, one_line

DEMO = "demo"
CARD = "card.json"
PACKAGE = Path(__file__).resolve().parents[1]
SOURCE = PACKAGE.parent
DEMO_CONFIG = Path("configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml")
DEMO_FOLDER = Path("work_dirs/demo")


@dataclass(frozen=True)
class ShippedModel:
    """A model of the package.

    Attributes:
        name: for `find_model` and the option `--model`.
        config: YAML file, without bases.
        checkpoint: weights.
        card: content of `card.json`: `about`, `parameters`, `files` with bytes and SHA-256, `scores`, `training`.
    """

    name: str
    config: Path
    checkpoint: Path
    card: dict[str, Any]


def models_folder() -> Path:
    """Return the folder of the models: inside the package in a wheel, beside it in the source tree."""
    inside = PACKAGE / "shipped_models"
    return inside if inside.is_dir() else SOURCE / "models"


def shipped_models(folder: Path | None = None) -> list[ShippedModel]:
    """List the models by name, the default first; their files are verified by `find_model`, not here.

    Args:
        folder: default: the package's.

    Raises:
        UserError: if a card cannot be read.
    """
    cards = sorted((folder or models_folder()).glob(f"*/{CARD}"))
    return sorted((_read_card(path) for path in cards), key=lambda model: (model.name != DEFAULT, model.name))


def find_model(name: str = DEFAULT, folder: Path | None = None) -> tuple[Path, Path]:
    """Return config and checkpoint of a model.

    `demo` is the checkpoint that `make demo` trains; it is searched in `work_dirs/demo` of the working directory and of
    the source tree.

    Args:
        name: of a shipped model, or `demo`.
        folder: default: the package's.

    Raises:
        UserError: if there is no such model (lists the names), a file is missing, or its SHA-256 differs from the card.
    """
    models = {model.name: model for model in shipped_models(folder)}
    demo = _find_demo()
    if name == DEMO and demo:
        return demo
    if name not in models:
        names = ", ".join([*models, *([DEMO] if demo else [])]) or "none"
        hint = "; `make demo` trains demo" if name == DEMO else ""
        raise UserError(f"model {name!r}: there is no such model; there are: {names}{hint}")
    model = models[name]
    for path in (model.config, model.checkpoint):
        _verify(path, model.card)
    return model.config, model.checkpoint


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_card(path: Path) -> ShippedModel:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        names = [card[key] for key in ("name", "config", "checkpoint")]
        if not all(isinstance(card["files"][name]["sha256"], str) for name in names[1:]):
            raise TypeError("sha256 is not a string")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a model's card ({type(error).__name__}: {one_line(error)})") from None
    return ShippedModel(names[0], path.parent / names[1], path.parent / names[2], card)


def _verify(path: Path, card: dict[str, Any]) -> None:
    if not path.is_file():
        raise UserError(f"{path}: is missing; install avsmamba again, or restore the file")
    expected, found = card["files"][path.name]["sha256"], sha256(path)
    if found != expected:
        raise UserError(f"{path}: is not the file that was shipped: SHA-256 {found[:16]}…, expected {expected[:16]}…")


def _find_demo() -> tuple[Path, Path] | None:
    for root in (Path.cwd(), SOURCE):
        found = sorted((root / DEMO_FOLDER).glob("best_M_J_*.pth"), key=_iteration)
        if found and (root / DEMO_CONFIG).is_file():
            return root / DEMO_CONFIG, found[-1]
    return None


def _iteration(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem) or 0)
