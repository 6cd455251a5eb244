"""Weights from files: read without executing anything, and loaded whole or not at all."""

import argparse
import logging
import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from avsmamba.utils import UserError

# What torch says when a file asks for a function or class beyond plain values.
FORBIDDEN = ("GLOBAL", "unrecognized function", "Can only")
WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "module")


def load_checkpoint_file(path: str | Path, strip: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; nothing in the file is executed.

    A state dict inside `state_dict`, `model`, `model_state`, `model_state_dict` or `module` is taken out, a `module.`
    that leads every name (DataParallel) is taken off.

    Args:
        path: a local file: `.safetensors`, else what `torch.save` wrote.
        strip: prefixes to look for, the most specific first. The first that any name has is taken off, and tensors
            without it (other parts of a model) are left out and named in the log. No such name: all are kept.

    Raises:
        UserError: if the file is missing, damaged, holds more than plain values, or no named tensors.
    """
    state, prefix, rest = take_prefix(find_state_dict(read_file(path), path), strip)
    if rest:
        _log(f"{path}: not under {prefix!r}, not used: {name_some(rest)}")
    return state


def take_prefix(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> tuple[dict[str, Tensor], str, list[str]]:
    """The tensors under the first of `prefixes` that any name has, without it; the prefix; the names of the rest.

    No such name: all tensors, and an empty prefix.
    """
    for prefix in prefixes:
        found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found, prefix, [k for k in state if not k.startswith(prefix)]
    return dict(state), "", []


def read_file(path: str | Path, map_location: Any = "cpu") -> Any:
    """The content of a checkpoint file; nothing in it is executed.

    Args:
        path: a local file: `.safetensors`, else what `torch.save` wrote.
        map_location: as in `torch.load`.

    Raises:
        UserError: if the file is missing, damaged, or holds more than tensors and plain values.
    """
    if "://" in str(path):
        raise UserError(f"{path}: expected a local file; download the checkpoint first")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # The arguments of a training script are plain values in a plain class; many public files carry them.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # KeyError, OSError, EOFError, safetensors' own class, … : a damaged file meets them all
        reason = _gist(error)
        if isinstance(error, pickle.UnpicklingError) and any(word in reason for word in FORBIDDEN):
            raise UserError(f"{path}: holds more than weights; nothing was executed or loaded ({reason})") from None
        raise UserError(f"{path}: cut short, damaged, or not a checkpoint ({reason})") from None


def find_state_dict(content: Any, file: str | Path) -> dict[str, Tensor]:
    """The named tensors in a checkpoint's content, out of their wrappers and without DataParallel's `module.`.

    Raises:
        UserError: if there are none; `file` is named.
    """
    content = unwrap(content)[0]
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(f"{file}: expected tensors by name (a state dict), found {_outline(content)}")
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """What lies inside all wrappers of a checkpoint's content, and the wrappers' keys from the outside inwards."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if key is None:
            break
        keys.append(key)
        content = content[key]
    return content, keys


class Fit(NamedTuple):
    """How a state dict goes with a module: names on both sides, on one side only, and those of another shape."""

    matching: list[str]
    missing: list[str]
    unexpected: list[str]
    misfits: list[str]


def compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Fit:
    """Compare names and shapes.

    Args:
        own: a module's state dict.
        state: tensors for it. Only the counters `num_batches_tracked` may be missing: frozen and old batch
            normalisations have none, and nothing depends on them.
    """
    common = [k for k in own if k in state]
    return Fit(
        [k for k in common if own[k].shape == state[k].shape],
        [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        [k for k in state if k not in own],
        [
            f"{k} is {tuple(state[k].shape)}, the model's {tuple(own[k].shape)}"
            for k in common
            if own[k].shape != state[k].shape
        ],
    )


def load_into(
    module: nn.Module, state: Mapping[str, Tensor], *, file: str | Path, ignore: Sequence[str] = (), prefix: str = ""
) -> None:
    """Copy a state dict into a module: every tensor of the module, or none and an error.

    Args:
        module: keeps its parameters (they are filled in place) and its dtype.
        state: tensors by name.
        file: where they came from, named in errors and in the log.
        ignore: leading parts of names (`head` for `head.weight`) that the module need not have; named in the log.
        prefix: taken off the names in `state` before they are compared; names without it are unexpected.

    Raises:
        UserError: if tensors are missing, unexpected or of another shape. Only the counters `num_batches_tracked` may
            be missing: frozen and old batch normalisations have none, and nothing depends on them.
    """
    own = module.state_dict()
    state = {k.removeprefix(prefix) if k.startswith(prefix) else f"{k} (not under {prefix!r})": v
             for k, v in state.items()}  # fmt: skip
    ignored = [k for k in state if k not in own and _leads(k, ignore)]
    fit = compare(own, {k: v for k, v in state.items() if k not in ignored})
    raise_unless_fits(file, type(module).__name__, fit.missing, fit.unexpected, fit.misfits)
    if ignored:
        _log(f"{file}: not part of {type(module).__name__}, not used: {name_some(ignored)}")
    with torch.no_grad():
        for k in fit.matching:
            own[k].copy_(state[k])


def raise_unless_fits(
    file: str | Path, what: str, missing: Sequence[str], unexpected: Sequence[str], misfits: Sequence[str]
) -> None:
    """One error for all that does not fit between a file and a model called `what`; none if all three are empty.

    Raises:
        UserError: in one line, with the first few of each kind.
    """
    faults = [
        f"{len(found)} {kind} ({name_some(found)})"
        for kind, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
        if found
    ]
    if faults:
        raise UserError(f"{file}: does not fit {what}: tensors {'; '.join(faults)}")


def name_some(names: Iterable[str], most: int = 4) -> str:
    """The first few of many names."""
    names = list(names)
    more = f", … {len(names)} in all" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _leads(name: str, parts: Sequence[str]) -> bool:
    return any(name == p or name.startswith(f"{p.rstrip('.')}.") for p in parts)


def _outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {name_some(map(str, content))}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def _gist(error: BaseException) -> str:
    """The reason in one line, without torch's advice to load the file all the same."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in (*FORBIDDEN, "Unsupported operand"))]
    chosen = (telling or lines or ["empty"])[0]
    return f"{type(error).__name__}: {chosen[:160]}"


def _log(message: str, level: int = logging.INFO) -> None:
    print_log(message, logger="current", level=level)
