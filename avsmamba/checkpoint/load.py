"""A run's checkpoints: find the last one of a work dir, load weights and report every key that did not match."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from avsmamba.checkpoint.reading import find_state_dict, name_some, raise_unless_fits
from avsmamba.checkpoint.released import READING, idle_parts, is_released, translate, use_authors_reading
from avsmamba.utils import UserError


def load_weights(
    model: nn.Module, checkpoint: dict[str, Any], path: str | Path, exact: bool, warn: Callable[[str], None]
) -> None:
    """Load a checkpoint's weights into a model and report every key that did not match.

    A checkpoint that the paper's authors wrote is recognised and translated; it switches on what their code does
    otherwise (`avsmamba.checkpoint.released`), which is reported too.

    Args:
        model: the model, not wrapped.
        checkpoint: with `state_dict`, or a state dict itself; a `module.` that leads every name is taken off.
        path: named in errors.
        exact: the file must hold all of the model (test, resume); else missing tensors are only reported.
        warn: is called with a line on tensors that only one side has, and on what else the caller should know.

    Raises:
        UserError: if shapes differ, no tensor fits, or `exact` and some are missing.
    """
    weights = find_state_dict(checkpoint, path)
    released = translate(weights, model, path) if is_released(weights) else None
    if released is not None:
        weights = released.state
    own = model.state_dict()
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    extra = [k for k in weights if k not in own]
    if own and len(extra) == len(weights):
        raise UserError(f"{path}: holds none of the model's {len(own)} tensors; its first is {extra[0]!r}")
    misfits = [
        f"{k} is {tuple(v.shape)}, the model's {tuple(own[k].shape)}"
        for k, v in weights.items()
        if k in own and v.shape != own[k].shape
    ]
    raise_unless_fits(path, type(model).__name__, missing if exact else [], [], misfits)
    model.load_state_dict(weights, strict=False)
    reading = (checkpoint.get("meta") or {}).get(READING) if released is None else released.reading
    if reading is not None:
        options = ", ".join(use_authors_reading(model, reading))
        warn(f"{path}: {'' if released else 'trained from '}a checkpoint of the authors' code; it needs {options}")
    if released is not None:
        warn(
            f"{path}: {len(released.idle)} tensors in it are idle, not used: {name_some(idle_parts(released.idle), 8)}"
        )
    if missing:
        names = name_some(missing)
        warn(f"{path}: {len(missing)} of the model's {len(own)} tensors are not in it, left as made: {names}")
    if extra:
        warn(f"{path}: {len(extra)} tensors in it are not used: {name_some(extra)}")


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
