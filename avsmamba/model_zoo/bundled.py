"""Find the models that are shipped with the package.

They are in `models/` of the source tree and in `avsmamba/shipped_models/` of a wheel: a folder of `avsmamba publish`
for each. They were trained on generated shapes, not on real videos.
"""

import re
from pathlib import Path

from avsmamba.choices import DEFAULT_MODEL as DEFAULT
from avsmamba.model_zoo.folder import CARD, ModelFolder, read_folder
from avsmamba.utils import UserError

DEMO = "demo"
PACKAGE = Path(__file__).resolve().parents[1]
SOURCE = PACKAGE.parent
DEMO_CONFIG = Path("configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml")
DEMO_FOLDER = Path("work_dirs/demo")


def models_folder() -> Path:
    """Return the folder of the models: inside the package in a wheel, beside it in the source tree."""
    inside = PACKAGE / "shipped_models"
    return inside if inside.is_dir() else SOURCE / "models"


def shipped_models(folder: Path | None = None) -> list[ModelFolder]:
    """List the models by name, the default first; their files are verified by `find_model`, not here.

    Args:
        folder: default: the package's.

    Raises:
        UserError: if a card cannot be read.
    """
    cards = sorted((folder or models_folder()).glob(f"*/{CARD}"))
    return sorted((read_folder(path.parent) for path in cards), key=lambda model: (model.name != DEFAULT, model.name))


def find_model(name: str = DEFAULT, folder: Path | None = None) -> tuple[Path, Path]:
    """Return config and checkpoint of a shipped model.

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
    models[name].verify()
    return models[name].config, models[name].checkpoint


def _find_demo() -> tuple[Path, Path] | None:
    for root in (Path.cwd(), SOURCE):
        found = sorted((root / DEMO_FOLDER).glob("best_M_J_*.pth"), key=_iteration)
        if found and (root / DEMO_CONFIG).is_file():
            return root / DEMO_CONFIG, found[-1]
    return None


def _iteration(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem) or 0)
