"""From a YAML file, its bases and the command line to one mmengine Config."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from avsmamba.config import yaml_io
from avsmamba.config.interpolate import interpolate, references
from avsmamba.config.variants import ENDINGS, Variants, split_name
from avsmamba.registry import SCOPE
from avsmamba.utils import UserError, is_remote

BASE, DELETE = "_base_", "_delete_"
ROOT_VARIABLE = "AVSBENCH_ROOT"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load_config(path: str | Path, options: Mapping[str, Any] | None = None, data_root: str | None = None) -> Config:
    """Read a YAML config with its bases and check it against the registries.

    A child mapping is merged into its base's; `_delete_: true` replaces it instead; lists are replaced whole. Bases
    must not share a top-level key. `${name}` is the value of another key, after options were set. A key at the top that
    only such references name (`size`) is not in the result. Nothing in a config is executed or imported.

    Args:
        path: the config, `.yaml` or `.yml`, or a variant of a table of them: `configs/ablations.yaml#ms3_orders_10`.
        options: values by dotted key (`model.head.num_classes`, `param_scheduler.0.end`), see `parse_options`.
        data_root: folder that holds `Single-source/`, `Multi-sources/` and `AVSS/`, for every data set of the config;
            the environment variable AVSBENCH_ROOT does the same where it is None.

    Raises:
        UserError: naming the file (and line) or the key that is at fault.
    """
    path = Path(path).expanduser()
    names: set[str] = set()
    values = _without_marker(_read_with_bases(path, (), names))
    for key, value in sorted((options or {}).items(), key=lambda item: not item[0].endswith(DELETE)):
        _set(values, key, value)
    source = f"{path} with --cfg-options" if options else str(path)
    values, variables = _resolve(values, names, source)
    values.setdefault("default_scope", SCOPE)
    from avsmamba.config.check import check_config  # imports mmengine.runner, which takes seconds

    try:
        check_config(values, variables)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    set_data_root(values, data_root)
    # mmengine would open the file for its text, and a variant has none.
    return Config(values, cfg_text=str(path), filename=str(path))


def flat_values(path: str | Path) -> dict[str, Any]:
    """Return a YAML config and its bases in one mapping, with references replaced, unchecked.

    Raises:
        UserError: naming the file (and line) or the key that is at fault.
    """
    names: set[str] = set()
    return _resolve(_read_with_bases(Path(path), (), names), names, str(path))[0]


def _resolve(values: dict[str, Any], names: set[str], source: str) -> tuple[dict[str, Any], set[str]]:
    """Replace references; return the values without the keys that only references name, and those keys.

    `names` are those of references that a later file replaced: their keys may be left over.
    """
    values = _without_marker(values)
    names |= references(values)
    try:
        values = interpolate(values)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    if names:
        from avsmamba.config.check import TOP_LEVEL

        names = {n for n in names - TOP_LEVEL if n in values and not isinstance(values[n], (dict, list))}
    return {key: value for key, value in values.items() if key not in names}, names


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` words of `--cfg-options`; values are YAML, as in the files: `[1, 2]`, `{type: X}`, `null`.

    Raises:
        UserError: for an option without a key or a value that is not YAML.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"--cfg-options: expected key=value, got {pair!r}")
        if key in options:
            raise UserError(f"--cfg-options: {key!r} is set twice")
        options[key] = yaml_io.parse(value, f"--cfg-options {key}")
    return options


def set_data_root(values: dict[str, Any], data_root: str | None) -> None:
    """Point every data set at `data_root`, or every one that reads files at AVSBENCH_ROOT; without either none changes.

    Raises:
        UserError: if the folder does not exist.
    """
    source = "--data-root" if data_root else ROOT_VARIABLE
    folder = data_root or os.environ.get(ROOT_VARIABLE)
    if not folder:
        return
    remote = is_remote(folder)
    if not remote and not Path(folder).expanduser().is_dir():
        raise UserError(f"{source}: no such folder: {folder}")
    for loader in LOADERS:
        for dataset in data_sets((values.get(loader) or {}).get("dataset")):
            if not data_root and str(dataset.get("type")).rpartition(".")[2].startswith("Sharded"):
                continue
            dataset["data_root"] = folder if remote else str(Path(folder).expanduser())


def data_sets(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the innermost data sets of a config that may nest them (`dataset`, `datasets`)."""
    if isinstance(config, (list, tuple)):
        for item in config:
            yield from data_sets(item)
    elif isinstance(config, dict):
        inner = [config[key] for key in ("dataset", "datasets") if key in config]
        if inner:
            yield from data_sets(inner)
        else:
            yield config


def _read_with_bases(path: Path, chain: tuple[Path, ...], names: set[str]) -> dict[str, Any]:
    """Read a file and its bases; what they refer to is added to `names`."""
    file, variant = split_name(path)
    if file.suffix not in ENDINGS:
        raise UserError(f"{path}: a config is a .yaml file")
    if path.resolve() in chain:
        raise UserError(f"{path}: is a base of itself")
    values = yaml_io.read(file)
    if "variants" in values:
        base_part, part = Variants(file, values).parts(variant)
        values = merge(base_part.config, part.config, str(path))
    elif variant:
        raise UserError(f"{path}: {file} holds no variants")
    names |= references(values)
    bases = values.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(n, str) for n in bases):
        raise UserError(f"{path}: {BASE} must be a file name or a list of them")
    base: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name in bases:
        base_path = path.parent / Path(name).expanduser()
        if not split_name(base_path)[0].is_file():
            raise UserError(f"{path}: {BASE}: no such file: {base_path}")
        for key, value in _read_with_bases(base_path, (*chain, path.resolve()), names).items():
            if key in origin:
                raise UserError(f"{path}: two bases set {key!r}: {origin[key]} and {name}")
            base[key], origin[key] = value, name
    return merge(base, values, str(path))


def merge(base: dict[str, Any], child: dict[str, Any], source: str, where: str = "") -> dict[str, Any]:
    """Merge `child` over `base` into a copy; mappings are merged, all else is replaced.

    Raises:
        UserError: if a mapping meets a list or a number, naming `source` and the key.
    """
    merged = dict(base)
    for key, value in child.items():
        old, path = base.get(key), f"{where}{key}"
        if isinstance(value, dict) and not value.get(DELETE) and old is not None:
            if not isinstance(old, dict):
                kind = f"a mapping here but a {type(old).__name__} in its base"
                raise UserError(f"{source}: {path} is {kind}; {DELETE}: true replaces it")
            merged[key] = merge(old, value, source, f"{path}.")
        elif isinstance(old, dict) and value is not None and not isinstance(value, (dict, list)):
            raise UserError(f"{source}: {path} is {value!r} here but a mapping in its base; write null to drop it")
        else:
            merged[key] = value
    return merged


def _without_marker(value: Any) -> Any:
    """Return a copy without `_delete_`, which may be written where the base has nothing to delete."""
    if isinstance(value, dict):
        return {k: _without_marker(v) for k, v in value.items() if k != DELETE}
    return [_without_marker(v) for v in value] if isinstance(value, list) else value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key; a number indexes a list, a missing mapping is created."""
    name = f"--cfg-options {key}"
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[_index(node, part, name)]
    if not isinstance(node, (dict, list)):
        raise UserError(f"{name}: {'.'.join(parents)} is {node!r}, not a mapping")
    if isinstance(node, list):
        node[_index(node, last, name)] = value
    elif last != DELETE:
        node |= merge({k: node[k] for k in node if k == last}, {last: value}, "--cfg-options", key[: -len(last)])
    elif value:
        node.clear()


def _index(node: Any, part: str, name: str) -> Any:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise UserError(f"{name}: {part!r} is asked of {node!r}, which has no keys")
    if not part.isdigit() or int(part) >= len(node):
        raise UserError(f"{name}: {part!r} is no index of a list of {len(node)}")
    return int(part)
