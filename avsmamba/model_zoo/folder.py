"""Read the folder of a published model and verify its files by SHA-256."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsmamba.utils import UserError, one_line

CARD, CONFIG, README, WEIGHTS = "card.json", "config.yaml", "README.md", "model.safetensors"
FILES = (CARD, CONFIG, README, WEIGHTS)


@dataclass(frozen=True)
class ModelFolder:
    """A model that `avsmamba publish` wrote.

    Attributes:
        name: of the model.
        config: YAML file, without bases.
        checkpoint: weights.
        card: content of `card.json`: `about`, `parameters`, `files` with bytes and SHA-256, `scores`, `training`.
    """

    name: str
    config: Path
    checkpoint: Path
    card: dict[str, Any]

    def verify(self) -> None:
        """Compare the files with the SHA-256 of the card.

        Raises:
            UserError: if one is missing or differs.
        """
        for path in (self.config, self.checkpoint):
            if not path.is_file():
                raise UserError(f"{path}: is missing; copy the model's folder, or install avsmamba, again")
            expected, found = self.card["files"][path.name]["sha256"], sha256(path)
            if found != expected:
                raise UserError(
                    f"{path}: is not the file that was published: SHA-256 {found[:16]}…, expected {expected[:16]}…"
                )


def read_folder(folder: Path) -> ModelFolder:
    """Read the card of a published model; the files that it names are not read.

    Raises:
        UserError: if there is no folder, or no card in it, or the card is faulty.
    """
    path = folder / CARD
    if not path.is_file():
        if folder.is_file():
            raise UserError(f"{folder}: is a file; expected a published model's folder, or a config with a checkpoint")
        fault = f"has no {CARD}; expected a folder of avsmamba publish" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {fault}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        name, *files = [card[key] for key in ("name", "config", "checkpoint")]
        if any(Path(file).name != file or not isinstance(card["files"][file]["sha256"], str) for file in files):
            raise TypeError("expected names of files in this folder, with their sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a model's card ({type(error).__name__}: {one_line(error)})") from None
    return ModelFolder(str(name), folder / files[0], folder / files[1], card)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
