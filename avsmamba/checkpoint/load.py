"""Load weights and report every key that did not match."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from avsmamba.checkpoint.reading import compare, find_state_dict, name_some, raise_unless_fits
from avsmamba.checkpoint.released import READING, idle_parts, is_released, translate, use_authors_reading
from avsmamba.utils import UserError


def load_weights(
    model: nn.Module, checkpoint: dict[str, Any], path: str | Path, exact: bool, warn: Callable[[str], None]
) -> None:
    """Load a checkpoint's weights into a model and report every key that did not match.

    A checkpoint written by the authors' code is recognised and translated; the options of the model that it needs
    (`avsmamba.checkpoint.released`) are set and reported.

    Args:
        model: the model, not wrapped.
        checkpoint: with `state_dict`, or a state dict itself; `module.` is removed if all names start with it.
        path: named in errors.
        exact: all tensors of the model are required (test, resume); else missing ones are only reported.
        warn: called with each line of the report.

    Raises:
        UserError: if shapes differ, no tensor fits, or `exact` and some are missing.
    """
    weights = find_state_dict(checkpoint, path)
    released = translate(weights, model, path) if is_released(weights) else None
    if released is not None:
        weights = released.state
    own = model.state_dict()
    _, missing, extra, misfits = compare(own, weights)
    if own and len(extra) == len(weights):
        raise UserError(f"{path}: contains none of the model's {len(own)} tensors; its first is {extra[0]!r}")
    raise_unless_fits(path, type(model).__name__, missing if exact else [], [], misfits)
    model.load_state_dict(weights, strict=False)
    reading = (checkpoint.get("meta") or {}).get(READING) if released is None else released.reading
    if reading is not None:
        options = ", ".join(use_authors_reading(model, reading))
        warn(f"{path}: {'' if released else 'trained from '}a checkpoint of the authors' code; it needs {options}")
    if released is not None:
        idle = name_some(idle_parts(released.idle), 8)
        warn(f"{path}: {len(released.idle)} tensors in it are idle, not used: {idle}")
    if missing:
        warn(
            f"{path}: {len(missing)} of the model's {len(own)} tensors are missing from the file and keep their "
            f"initial values: {name_some(missing)}"
        )
    if extra:
        warn(f"{path}: {len(extra)} tensors in it are not used: {name_some(extra)}")
