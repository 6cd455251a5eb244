"""Limits of arguments, declared once at a constructor: checked when it is called and when a config is read."""

import functools
import inspect
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple, ParamSpec

P = ParamSpec("P")


class Limit(NamedTuple):
    """Range of a number, or of every number of a list.

    Attributes:
        words: the range in an error message, after "expected".
        holds: whether a value is in the range.
        kind: type of the values that are checked; others pass.
    """

    words: str
    holds: Callable[[Any], bool]
    kind: type = Real

    def allows(self, value: Any) -> bool:
        """Return whether `value`, or all values of a list, are in the range."""
        values = value if isinstance(value, (list, tuple)) else (value,)
        return all(self.holds(n) for n in values if isinstance(n, self.kind))


AT_LEAST_0 = Limit("at least 0", lambda x: x >= 0)
AT_LEAST_1 = Limit("at least 1", lambda x: x >= 1)
POSITIVE = Limit("a number above 0", lambda x: x > 0)
RATE = Limit("at least 0 and below 1", lambda x: 0 <= x < 1)
PROBABILITY = Limit("0 to 1", lambda x: 0 <= x <= 1)
ODD = Limit("an odd number", lambda n: n > 0 and n % 2 == 1)
MAP_NUMBER = Limit("of the maps 1 to 4", lambda x: x in (1, 2, 3, 4))


def one_of(choices: Iterable[int] | Iterable[str]) -> Limit:
    """Return the limit of an argument that has a few values only."""
    known = sorted(choices)
    return Limit(f"one of {known}", lambda x: x in known, object)


def counts(*names: str) -> dict[str, Limit]:
    """Return limits for arguments that are at least 1: `@limits(**counts("num_layers", "num_heads"))`."""
    return dict.fromkeys(names, AT_LEAST_1)


def limits(**ranges: Limit) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorate an `__init__`: raise a ValueError that names the argument whose value is out of its range.

    Raises:
        TypeError: if the constructor has no argument of that name.
    """

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        signature = inspect.signature(init)
        if unknown := set(ranges) - set(signature.parameters):
            raise TypeError(f"{init.__qualname__} has no argument {', '.join(sorted(unknown))}")

        @functools.wraps(init)
        def checked(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                values = signature.bind(*args, **kwargs).arguments
            except TypeError:
                values = {}  # the call below reports what is missing, with the class's name
            for name, limit in ranges.items():
                if name in values and not limit.allows(values[name]):
                    raise ValueError(f"{name}: expected {limit.words}, got {values[name]!r}")
            init(*args, **kwargs)

        checked.limits = ranges  # type: ignore[attr-defined]
        return checked

    return decorate


def limits_of(function: Callable[..., Any]) -> dict[str, Limit]:
    """Return what `limits` declared for a constructor."""
    return getattr(function, "limits", {})
