"""The page of all registered classes with their arguments."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.registry import Registry

from avsmamba import registry as own
from avsmamba.markdown import table

# Registries in the page's order, titles, and the keys of a config that name their members.
SECTIONS = (
    (own.MODELS, "Models", "`model`, its parts, `data_preprocessor`"),
    (own.DATASETS, "Data sets", "`*_dataloader.dataset`"),
    (own.TRANSFORMS, "Transforms", "`*_dataloader.dataset.pipeline`"),
    (own.SAMPLERS, "Samplers", "`*_dataloader.sampler`"),
    (own.METRICS, "Metrics", "`val_evaluator`, `test_evaluator`"),
    (own.HOOKS, "Hooks", "`default_hooks`, `custom_hooks`"),
    (own.OPTIM_WRAPPERS, "Optimizer wrappers", "`optim_wrapper`"),
    (own.LOG_PROCESSORS, "Log processors", "`log_processor`"),
    (own.FUNCTIONS, "Functions", "`*_dataloader.worker_init_fn`, `collate_fn`"),
)
_ITEM = re.compile(r"^ {4}(\w+): (.*)$")


def registered(registry: Registry) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield names and classes that avsmamba registers, by module and name."""
    registry.import_from_location()
    mine = [(name, c) for name, c in registry.module_dict.items() if c.__module__.split(".")[0] == "avsmamba"]
    yield from sorted(mine, key=lambda item: (item[1].__module__, item[0]))


def described(doc: str) -> dict[str, str]:
    """Return the text on each argument in the `Args` section of a docstring."""
    found: dict[str, str] = {}
    name = None
    inside = False
    for line in inspect.cleandoc(doc).splitlines():
        if not line.startswith(" "):
            inside, name = (line == "Args:") if line else inside, None
        elif inside and (match := _ITEM.match(line)):
            name = match[1]
            found[name] = match[2]
        elif inside and name:
            found[name] += " " + line.strip()
    return found


def meanings(target: Callable[..., Any]) -> dict[str, str]:
    """Return the texts on the arguments of a class in its docstring and in those of its base classes."""
    classes = target.__mro__ if inspect.isclass(target) else (target,)
    found: dict[str, str] = {}
    for one in classes:
        if getattr(one, "__module__", "").startswith("avsmamba"):
            found = described(one.__doc__ or "") | found
    return found


def arguments_table(target: Callable[..., Any]) -> str:
    """Return a table of arguments, defaults and meanings; empty if there is no argument.

    Raises:
        ValueError: if an argument is not documented.
    """
    text = meanings(target)
    rows = []
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name not in text:
            raise ValueError(f"{target.__module__}.{target.__name__}: argument {parameter.name!r} is not documented")
        default = "required" if parameter.default is parameter.empty else f"`{shown(parameter.default)}`"
        rows.append((f"`{parameter.name}`", default, text[parameter.name].replace("<", "&lt;")))
    return table(("argument", "default", "meaning"), rows) if rows else ""


def shown(value: Any) -> str:
    """Return a default as YAML, floats with four digits."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, float) and round(value, 4) != value:
        return f"{value:.4g}"
    return str(value)


def component(name: str, target: Callable[..., Any]) -> str:
    """Return heading, file, first paragraph of the docstring and arguments of one class."""
    path = target.__module__.replace(".", "/") + ".py"
    first = " ".join(inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0].split())
    # References to another class's arguments have no target on the page.
    first = re.sub(r" See `\w+` for the arguments\.$", "", first)
    parts = [f"### {name}", f"{first.replace('<', '&lt;')} [`{path}`](../{path})", arguments_table(target)]
    return "\n\n".join(part for part in parts if part)


def page() -> str:
    """Return the text of `docs/components.md`."""
    parts = [
        "# Registered parts",
        "Written by `python tools/components.py --write` from the signatures and docstrings of the code; not by hand.",
        "In a config, `type:` is a name, and the keys beside it are arguments ([how configs work](configs.md)). "
        "`AVSSegmentor` passes `embed_dims` to all parts of the neck and to the head, and `in_channels` and "
        "`audio_channels` to the projection, so a config does not name them there. Hooks and the log processor also "
        "accept the arguments of mmengine's base classes.",
    ]
    for registry, title, where in SECTIONS:
        members = list(registered(registry))
        if members:
            parts += [f"## {title}", f"In a config: {where}.", *(component(*member) for member in members)]
    return "\n\n".join(parts) + "\n"
