"""`${name}` in a config: the value of another key, put in by OmegaConf; environment and code are out of its reach."""

import re
from collections.abc import Iterator
from typing import Any

from avsmamba.config.arguments import near
from avsmamba.utils import UserError

_REFERENCE = re.compile(r"\$\{([a-z_]\w*(?:\.\w+)*)\}", re.ASCII | re.IGNORECASE)
_ABSENT = object()


def references(value: Any) -> set[str]:
    """Return the names that a value refers to."""
    return {name for _, text in _texts(value) for name in _REFERENCE.findall(text)}


def interpolate(values: dict[str, Any]) -> dict[str, Any]:
    """Replace every `${name}` and `${name.key}` by the value of that key, in a copy.

    A value that is one reference gets the other key's value with its type; inside a text it becomes text. A reference
    leads to text, a number, a boolean or null that holds no reference itself, so there are no circles and no growth.

    Raises:
        UserError: naming the key and the reference that is at fault.
    """
    texts = dict(_texts(values))
    if not texts:
        return values
    for path, text in texts.items():
        if "${" in _REFERENCE.sub("", text) or "\\${" in text:
            raise UserError(f"{path}: expected ${{name}} or ${{name.key}}, got {text!r}; a config executes nothing")
    from omegaconf import OmegaConf

    tree = OmegaConf.create(values, flags={"allow_objects": True})
    for path, name in ((path, name) for path, text in texts.items() for name in _REFERENCE.findall(text)):
        if name in texts:
            raise UserError(f"{path}: ${{{name}}} refers to {texts[name]!r}, which is a reference itself")
        target = OmegaConf.select(tree, name, default=_ABSENT)
        if target is _ABSENT:
            raise UserError(f"{path}: ${{{name}}} is not defined{near(name, values)}")
        if OmegaConf.is_config(target):
            raise UserError(f"{path}: ${{{name}}} refers to a mapping or a list, expected a single value")
    resolved: Any = OmegaConf.to_container(tree, resolve=True)
    for path, text in _texts(resolved):
        raise UserError(f"{path}: yields {text!r}, which would be read as a reference again")
    return resolved


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every text that holds `${`."""
    if isinstance(value, str) and "${" in value:
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, f"{path}.{key}" if path else str(key))
