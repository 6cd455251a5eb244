"""The page of all registered classes with their arguments: what tools/components.py prints and writes."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import Registry

import avsmamba
from avsmamba import registry as own
from avsmamba.utils import atomic_write

# Registries in the page's order, what they hold, and where their names are written in a config.
SECTIONS = (
    (own.MODELS, "Models", "`model`, its parts, `data_preprocessor`"),
    (own.DATASETS, "Data sets", "`*_dataloader.dataset`"),
    (own.TRANSFORMS, "Transforms", "`*_dataloader.dataset.pipeline`"),
    (own.METRICS, "Metrics", "`val_evaluator`, `test_evaluator`"),
    (own.HOOKS, "Hooks", "`default_hooks`, `custom_hooks`"),
    (own.OPTIM_WRAPPERS, "Optimizer wrappers", "`optim_wrapper`"),
    (own.LOG_PROCESSORS, "Log processors", "`log_processor`"),
    (own.FUNCTIONS, "Functions", "`*_dataloader.worker_init_fn`, `collate_fn`"),
)
SOURCES = Path(avsmamba.__file__).parent
_ITEM = re.compile(r"^ {4}(\w+): (.*)$")


def registered(registry: Registry) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Names and classes of a registry that avsmamba defines, by module and name."""
    registry.import_from_location()
    mine = [(name, c) for name, c in registry.module_dict.items() if c.__module__.split(".")[0] == "avsmamba"]
    yield from sorted(mine, key=lambda item: (item[1].__module__, item[0]))


def described(doc: str) -> dict[str, str]:
    """What the `Args` section of a docstring says of each argument."""
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
    """What the docstrings of a class and of the classes it comes from say of its arguments, the nearest first."""
    classes = target.__mro__ if inspect.isclass(target) else (target,)
    found: dict[str, str] = {}
    for one in classes:
        if getattr(one, "__module__", "").startswith("avsmamba"):
            found = described(one.__doc__ or "") | found
    return found


def arguments_table(target: Callable[..., Any]) -> str:
    """Arguments, defaults and what they mean; empty where there is no argument.

    Raises:
        ValueError: if an argument is not described.
    """
    text = meanings(target)
    rows = []
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name not in text:
            raise ValueError(f"{target.__module__}.{target.__name__}: no word on argument {parameter.name!r}")
        default = "needed" if parameter.default is parameter.empty else f"`{shown(parameter.default)}`"
        rows.append(f"| `{parameter.name}` | {default} | {escaped(text[parameter.name])} |")
    return "\n".join(["| argument | default | what it is |", "| --- | --- | --- |", *rows]) if rows else ""


def shown(value: Any) -> str:
    """A default as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, float) and round(value, 4) != value:
        return f"{value:.4g}"
    return str(value)


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def component(name: str, target: Callable[..., Any]) -> str:
    """Heading, file, the docstring's first paragraph and the arguments of one class."""
    path = Path(inspect.getfile(target)).relative_to(SOURCES.parent).as_posix()
    first = " ".join(inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0].split())
    # The classes' own words for where the rest stands would lead nowhere on the page.
    first = re.sub(r" See `\w+` for the arguments\.$", "", first)
    parts = [f"### {name}", f"{first.replace('<', '&lt;')} [`{path}`](../{path})", arguments_table(target)]
    return "\n\n".join(part for part in parts if part)


def page() -> str:
    """The text of `docs/components.md`."""
    parts = [
        "# Registered parts",
        "Written by `python tools/components.py --write`, from the signatures and docstrings of the code; not by hand.",
        "A name stands behind `type:` in a config, an argument is a key beside it ([how configs work](configs.md)). "
        "`AVSSegmentor` hands `embed_dims` to all parts of the neck and to the head, and `in_channels` and "
        "`audio_channels` to the projection, so that a config need not name them. Hooks and the log processor also "
        "take what mmengine gives to all of theirs.",
    ]
    for registry, title, where in SECTIONS:
        members = list(registered(registry))
        if members:
            parts += [f"## {title}", f"In a config: {where}.", *(component(*member) for member in members)]
    return "\n\n".join(parts) + "\n"


def write(target: Path) -> None:
    """Write the page."""
    with atomic_write(target) as path:
        path.write_text(page(), encoding="utf-8")
