"""Reading checkpoints: plain files only, and no layer left at random without a word."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsmamba.utils import UserError


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint file; nothing in it is executed.

    Args:
        path: a local file.
        map_location: as in `torch.load`.

    Raises:
        UserError: if the file is missing, damaged, or holds more than tensors and plain values.
    """
    if "://" in str(path):
        raise UserError(f"{path}: download the checkpoint first and name the local file")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: holds more than tensors and plain values, not loaded ({_gist(error)})") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged or no checkpoint ({_gist(error)})") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: no checkpoint, but a {type(checkpoint).__name__}")
    return checkpoint


def load_weights(
    model: nn.Module, checkpoint: dict[str, Any], path: str | Path, exact: bool, warn: Callable[[str], None]
) -> None:
    """Copy a checkpoint's weights into a model.

    Args:
        model: the model, not wrapped.
        checkpoint: with `state_dict`, or a state dict itself; a leading `module.` is taken off.
        path: named in errors.
        exact: the file must hold all of the model (test, resume); else missing tensors are only reported.
        warn: told of tensors that only one side has.

    Raises:
        UserError: if shapes differ, no tensor fits, or `exact` and some are missing.
    """
    state = checkpoint.get("state_dict", checkpoint)
    weights = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    own = model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    extra = [k for k in weights if k not in own]
    if own and len(extra) == len(weights):
        found = f"its first is {extra[0]!r}" if extra else "it holds no tensors"
        raise UserError(f"{path}: holds none of the model's {len(own)} tensors; {found}")
    other = [k for k, v in weights.items() if k in own and v.shape != own[k].shape]
    if other:
        shown = "; ".join(f"{k} is {tuple(weights[k].shape)}, the model's {tuple(own[k].shape)}" for k in other[:3])
        raise UserError(f"{path}: {len(other)} tensors differ in shape from the model's: {shown}{_dots(other)}")
    if missing and exact:
        raise UserError(f"{path}: {len(missing)} of the model's {len(own)} tensors are not in it: {_names(missing)}")
    model.load_state_dict(weights, strict=False)
    if missing:
        warn(f"{path}: {len(missing)} of the model's {len(own)} tensors are not in it, left as made: {_names(missing)}")
    if extra:
        warn(f"{path}: {len(extra)} tensors in it are not used: {_names(extra)}")


def find_latest(work_dir: str | Path) -> Path | None:
    """The last whole checkpoint of a work dir, wherever that was moved to; None where there is none."""
    folder = Path(work_dir)
    note = folder / "last_checkpoint"
    if note.is_file():
        named = folder / Path(note.read_text().strip()).name
        if named.is_file():
            return named
    found = [(int(p.stem.partition("_")[2]), p) for s in ("epoch", "iter") for p in folder.glob(f"{s}_[0-9]*.pth")]
    return max(found)[1] if found else None


def _names(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + _dots(keys)


def _dots(keys: list[str]) -> str:
    return ", ..." if len(keys) > 3 else ""


def _gist(error: BaseException) -> str:
    """What torch says in one line, without its advice on how to load the file all the same."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chosen = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0] if lines else "")
    return (chosen or type(error).__name__)[:160]
