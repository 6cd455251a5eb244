"""Arguments of registered classes, read from their signatures, and config values checked against types and limits.

Types are checked here and not by pydantic: it refuses hints of torch and mmengine (a Tensor, an Optimizer, a name only
known to type checkers) and reports an error for each member of a union.
"""

import collections.abc
import difflib
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, POSITIVE, Limit, limits_of
from avsmamba.utils import UserError

T = TypeVar("T")

# Limits that the signatures of torch and mmengine do not declare.
_OUTSIDE: dict[str, Limit] = {
    **dict.fromkeys(("max_iters", "max_epochs", "val_interval", "batch_size", "prefetch_factor"), AT_LEAST_1),
    **dict.fromkeys(("accumulative_counts", "max_norm", "clip_value"), POSITIVE),
    **dict.fromkeys(("lr", "weight_decay", "num_workers", "val_begin", "begin", "end"), AT_LEAST_0),
}
# One value and several of a type, in messages.
_WORDS: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "booleans"),
    str: ("text", "texts"),
    dict: ("a mapping", "mappings"),
    list: ("a list", "lists"),
    os.PathLike: ("a path", "paths"),
    type(None): ("null", "null"),
}
_NULL = type(None)
_MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """Type, limit and default of one argument.

    Attributes:
        hint: type hint; `Any` where nothing is known.
        required: whether there is no default.
        limit: range of its numbers.
    """

    hint: Any = Any
    required: bool = False
    limit: Limit | None = None

    def fault(self, value: Any, path: str) -> str | None:
        """Describe in one line why `value` cannot be this argument; None if it can."""
        if value is None and self.required and not {Any, _NULL} & set(_options(self.hint)):
            return f"{path}: is needed, expected {_words(self.hint) or 'a mapping'}, got null"
        if fault := mismatch(value, self.hint, path):
            return fault
        if self.limit is not None and not self.limit.allows(value):
            return f"{path}: expected {self.limit.words}, got {shown(value)}"
        return None


@cache
def arguments(target: Callable[..., Any]) -> tuple[dict[str, Argument], set[str], bool]:
    """Return the arguments a class or function takes, those it needs, and whether it takes any others as well.

    `**kwargs` is followed through the base classes' `__init__`.
    """
    if not inspect.isclass(target):
        functions = [target]
    else:
        functions = [c.__dict__["__init__"] for c in target.__mro__ if "__init__" in c.__dict__ and c is not object]
    known: dict[str, Argument] = {}
    required: set[str] = set()
    is_open = False
    for i, function in enumerate(functions):
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return known, set(), True
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
        for parameter in named:
            known.setdefault(parameter.name, _argument(function, parameter))
        required |= {p.name for p in named if p.default is _MISSING} if i == 0 else set()
        is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not is_open:
            break
    return known, required, is_open


def _argument(function: Callable[..., Any], parameter: inspect.Parameter) -> Argument:
    hint, default = parameter.annotation, parameter.default
    if isinstance(hint, str):
        hint = _resolved(function).get(parameter.name, Any)
    if hint is _MISSING:  # a default says whether the value is a number, a text or a switch, no more
        kinds = {bool: bool, int: float, float: float, str: str}
        hint = kinds[type(default)] | None if type(default) in kinds else Any
    elif default is None:
        hint = typing.Union[hint, None]  # noqa: UP007
    declared = limits_of(function)
    if getattr(function, "__module__", "").split(".")[0] != "avsmamba":
        declared = _OUTSIDE | declared
    return Argument(hint, default is _MISSING, declared.get(parameter.name))


@cache
def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    """Evaluate hints that are written as strings, those that can be."""
    found = {}
    for name, text in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: text})
        try:
            found[name] = typing.get_type_hints(holder, getattr(function, "__globals__", {}))[name]
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return found


def mismatch(value: Any, hint: Any, path: str) -> str | None:
    """Describe the first value that is not of its type: `path: expected an integer, got 'two'`; None if all are."""
    if fits(value, hint):
        return None
    lists = [h for h in _options(hint) if _kind(h) is list]
    if isinstance(value, (list, tuple)) and len(lists) == 1:
        hints = _item_hints(lists[0], len(value))
        faults = [mismatch(v, h, f"{path}.{i}") for i, (v, h) in enumerate(zip(value, hints, strict=False))]
        if any(faults):
            return next(f for f in faults if f)
    return f"{path}: expected {_words(hint)}, got {shown(value)}"


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value of a config is of a type.

    An integer is a number, true and false are not; a text is never a number. A type that YAML cannot write (a Tensor)
    takes everything; in a union with types that it can write, only a mapping with a `type`, from which it is built.
    """
    options = _options(hint)
    plain = [h for h in options if _kind(h) is not None]
    if len(plain) < len(options) and (set(plain) <= {_NULL} or (isinstance(value, dict) and "type" in value)):
        return True
    return any(_fits_plain(value, h) for h in plain)


def _fits_plain(value: Any, hint: Any) -> bool:
    kind = _kind(hint)
    if kind is typing.Literal:
        return any(value == a and type(value) is type(a) for a in typing.get_args(hint))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is os.PathLike:
        return isinstance(value, (str, os.PathLike))
    if kind is list:
        if not isinstance(value, (list, tuple)):
            return False
        hints = _item_hints(hint, len(value))
        return len(hints) == len(value) and all(fits(v, h) for v, h in zip(value, hints, strict=True))
    return isinstance(value, kind)


def _options(hint: Any) -> list[Any]:
    """Members of a union, or the hint alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(hint) for option in _options(member)]
    return [hint]


def _kind(hint: Any) -> Any:
    """Return the type of `_WORDS` that a hint means, `Literal`, or None: not a type that YAML writes."""
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal or origin in _WORDS:
        return origin
    if not isinstance(origin, type):
        return None
    if issubclass(origin, os.PathLike):
        return os.PathLike
    if origin is dict or origin in (collections.abc.Mapping, collections.abc.MutableMapping):
        return dict
    containers = (tuple, set, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
    return list if origin in containers else None


def _item_hints(hint: Any, count: int) -> list[Any]:
    """Hints of the `count` items of a list; as many as it must have for a tuple of fixed length."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and args[1:] != (Ellipsis,):
        return list(args)
    return [args[0] if args else Any] * count


def _words(hint: Any, several: int = 0) -> str:
    """Name a type in plain words; with `several` in the plural."""
    words = []
    for option in _options(hint):
        kind = _kind(option)
        if kind is typing.Literal:
            words += [shown(a) for a in typing.get_args(option)]
        elif kind is not None:
            text = _WORDS[kind][several]
            items = typing.get_args(option) if kind is list else ()
            if items and items[0] is not Any and (inner := _words(items[0], several=1)):
                fixed = typing.get_origin(option) is tuple and items[1:] != (Ellipsis,)
                text += f" of {len(items)} {inner}" if fixed else f" of {inner}"
            words.append(text)
    words = sorted(dict.fromkeys(words), key=lambda w: w.startswith("null"))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def shown(value: Any) -> str:
    """Write a value as YAML names it, cut to a line's length."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def faults_of_keys(config: Mapping[str, Any], known: Mapping[str, Argument], prefix: str) -> list[str]:
    """List the values of a mapping that do not fit the arguments of their names; `prefix` comes before each key."""
    faults = [known[key].fault(value, f"{prefix}{key}") for key, value in config.items() if key in known]
    return [f for f in faults if f]


def check_keys(config: Any, takes: Mapping[str, Argument], path: str, name: str = "it") -> Iterator[str]:
    """Yield the faults of a mapping that takes only the keys of `takes`; `path` is its place in the config."""
    if not isinstance(config, dict):
        yield f"{path}: expected a mapping, got {shown(config)}"
        return
    prefix = f"{path}." if path else ""
    for key in config:
        if key not in takes:
            yield f"{prefix}{key}: {name} takes no {key!r}{near(key, takes, listing=True)}"
    yield from faults_of_keys(config, takes, prefix)


def build(target: Callable[..., T], values: Any, file: Path, path: str = "") -> T:
    """Build a dataclass from a mapping of a YAML file, whose keys and types are those of its fields.

    Raises:
        UserError: naming the file and the key that is at fault.
    """
    takes, required, _ = arguments(target)
    faults = list(check_keys(values, takes, path))
    faults += [f"{path or 'top level'}: needs {key!r}" for key in sorted(required) if not faults and key not in values]
    if faults:
        raise UserError(f"{file}: {faults[0]}")
    return target(**values)


def near(word: str, names: Iterable[str], listing: bool = False) -> str:
    """Return `; did you mean 'x'?` with up to three near names; else nothing, or with `listing` all names."""
    pool = sorted(names)
    by_lower = {name.lower(): name for name in pool}
    matches = [by_lower[m] for m in difflib.get_close_matches(word.lower(), by_lower, 3, 0.6)]
    if matches:
        return f"; did you mean {' or '.join(map(repr, matches))}?"
    return f"; it takes {', '.join(pool)}" if listing and pool else ""
