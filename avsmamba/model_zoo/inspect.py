"""Describe a checkpoint and compare it with a config: `avsmamba inspect`."""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avsmamba.checkpoint.build import build_model
from avsmamba.checkpoint.reading import Fit, compare, find_state_dict, name_some, read_file, take_prefix, unwrap
from avsmamba.checkpoint.released import is_released, translate
from avsmamba.config.load import load_config, parse_options
from avsmamba.model_zoo.public_models import is_whole, recognise
from avsmamba.utils import UserError

# Shown of a training's checkpoint.
META = ("epoch", "iter", "experiment_name", "time", "seed")
LISTED = 20


def inspect_checkpoint(
    path: str | Path, config: str | Path | None = None, options: Sequence[str] = (), every: bool = False
) -> bool:
    """Describe a checkpoint and, with a config, compare it with the config's model. Nothing in it is executed.

    Args:
        path: a checkpoint.
        config: YAML file. A checkpoint of a whole model is compared with the model, one of a part with the part that
            it fits best: the backbone or the audio encoder.
        options: `key=value` strings that override the config.
        every: list all names, also matching ones, not only the first 20 of each kind of mismatch.

    Returns:
        Whether all tensors match; True without a config.

    Raises:
        UserError: if the file cannot be read or contains no named tensors, or the config is faulty.
    """
    content = read_file(path)
    state = find_state_dict(content, path)
    for line in describe(path, content, state):
        print(line)
    if config is None:
        return True
    cfg = load_config(config, parse_options(options))
    what, fit, notes = compare_with_config(cfg.model, state, path)
    print(f"\n{config}: compared with {what}")
    for title, names in (
        ("matching", fit.matching),
        ("missing", fit.missing),
        ("unexpected", fit.unexpected),
        ("of another shape", fit.misfits),
        *notes.items(),
    ):
        print(f"  {title}: {len(names)}")
        faults = title in ("missing", "unexpected", "of another shape")
        for name in names if every else names[:LISTED] if faults else []:
            print(f"    {name}")
        if faults and len(names) > LISTED and not every:
            print(f"    … {len(names) - LISTED} more (--all lists them)")
    fits = not (fit.missing or fit.unexpected or fit.misfits)
    print(f"  {'it fits' if fits else 'it does not fit'}")
    return fits


def describe(path: str | Path, content: Any, state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield lines on a file: model, format, number, size and dtypes of its tensors, other content."""
    kind = recognise(state)
    what = [kind.around] if kind.around else []
    if kind.model:
        what.append(f"{kind.family} {kind.model}")
    elif kind.family:
        what.append(f"names as in {kind.family}, but it fits no known {kind.family}")
    yield f"{path}: {', in it '.join(what) or 'no known model'}"
    inner, keys = unwrap(content)
    names = [str(k) for k, v in inner.items() if isinstance(v, Tensor)]
    place = f"tensors under {'.'.join(keys)!r}" if keys else "tensors at the top"
    yield f"  form: {_form(Path(path))}, {place}"
    if names and all(name.startswith("module.") for name in names):
        yield "  prefix: 'module.' (DataParallel), removed"
    groups = Counter(k.partition(".")[0] for k in state)
    if len(groups) <= 12:
        yield f"  leading parts: {', '.join(f'{part} ({count})' for part, count in groups.items())}"
    elements = sum(v.numel() for v in state.values())
    dtypes = Counter(str(v.dtype).removeprefix("torch.") for v in state.values())
    size = sum(v.numel() * v.element_size() for v in state.values())
    yield (
        f"  tensors: {len(state)}, {elements:,} numbers, {size / 1e6:.1f} MB, "
        f"{', '.join(f'{name} ({count})' for name, count in dtypes.items())}"
    )
    if keys and isinstance(content, Mapping):
        beside = [str(k) for k in content if k != keys[0]]
        if beside:
            yield f"  beside them: {', '.join(beside)}"
        for key, value in _meta(content).items():
            yield f"  {key}: {value}"
    if kind.model and kind.unused:
        yield f"  not part of {kind.model}: {name_some(kind.unused, 6)}"


def compare_with_config(
    model_config: Mapping[str, Any], state: Mapping[str, Tensor], path: str | Path
) -> tuple[str, Fit, dict[str, list[str]]]:
    """Compare a state dict with the model of a config, or with the part that it fits best.

    Returns:
        what it was compared with; how it fits; names of tensors that are not used or not required, by their heading.

    Raises:
        UserError: if it is not of the whole model, and no part reads public files.
    """
    model = build_model(model_config, device="meta")
    shapes = {k: v.to("meta") for k, v in state.items()}
    if is_released(state):
        released = translate(shapes, model, path)
        fit = compare(model.state_dict(), released.state)
        return f"the whole model ({type(model).__name__})", fit, {"idle, not used": released.idle}
    if is_whole(state):
        return f"the whole model ({type(model).__name__})", compare(model.state_dict(), shapes), {}
    found = [_compare_with_part(name, child, shapes, path) for name, child in model.named_children()]
    parts = [part for part in found if part is not None]
    if not parts:
        raise UserError(f"{path}: does not contain the whole model, and none of its parts reads foreign files")
    return max(parts, key=lambda part: len(part[1].matching) + len(part[1].misfits))


def _compare_with_part(
    name: str, part: nn.Module, shapes: dict[str, Tensor], path: str | Path
) -> tuple[str, Fit, dict[str, list[str]]] | None:
    if not hasattr(part, "layout"):
        return None
    layout = part.layout()
    inner, _, rest = take_prefix(shapes, layout.prefixes)
    own = layout.module.state_dict()
    try:
        ours, unused, kept = layout.read(inner, path)
    except UserError:  # names that cannot be translated
        ours, unused, kept = inner, [], []
    fit = compare(own, ours)
    matching = [k for k in fit.matching if k not in kept]
    notes = {"not in such files, keep their initial values": kept, "not part of it, not used": [*unused, *rest]}
    kind, title = type(part).__name__, getattr(part, "title", "")
    what = f"model.{name} ({title if title.startswith(kind) else f'{kind} {title}'.strip()})"
    return what, fit._replace(matching=matching), {k: v for k, v in notes.items() if v}


def _form(path: Path) -> str:
    if path.suffix == ".safetensors":
        return "safetensors"
    return "torch.save" if zipfile.is_zipfile(path) else "torch.save before torch 1.6"


def _meta(content: Mapping[str, Any]) -> dict[str, Any]:
    meta = content.get("meta")
    values = dict(content) | (dict(meta) if isinstance(meta, Mapping) else {})
    return {key: values[key] for key in META if isinstance(values.get(key), (int, float, str))}
