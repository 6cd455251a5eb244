"""Read and write YAML safely: no code runs, errors name the line, keys are unique strings, `2e-5` is a number.

mmengine's own handler is replaced by this one on import, so that `Config.dump` and `mmengine.load` follow it too.
"""

import io
import re
from pathlib import Path
from typing import Any

import yaml
from mmengine.fileio import BaseFileHandler, register_handler

from avsmamba.utils import UserError

# YAML 1.1 would read 2e-5 as text, 010 as 8, 1:30 as 90 and 2024-01-02 as a date; OpenMMLab's users write None.
_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("null", r"^(?:~|null|Null|NULL|None|)$", "~nN"),
    ("bool", r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$", "yYnNtTfFoO"),
    ("int", r"^[-+]?(?:0x[0-9a-fA-F]+|\d[\d_]*)$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    ("merge", r"^<<$", "<"),
)
_MOST = 100_000


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the number rules above, unique keys and keys that are strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                if key_node.tag != "tag:yaml.org,2002:str":
                    shown = repr(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                    raise _fault(f"a key must be a string, got {shown}", key_node)
                if key_node.value in seen:
                    raise _fault(f"key {key_node.value!r} is written twice", key_node)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)

    def construct_int(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 16) if "0x" in text else int(text)


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back: tuples become lists, text that looks like a number is quoted."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Dumper, text: str) -> Any:
    """Write Unicode's own line breaks in double quotes, outside of which they are lost."""
    style = '"' if any(c in text for c in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _class in (Loader, Dumper):
    for _tag, _pattern, _first in _RESOLVERS:
        _starts = [*_first, ""] if _tag == "null" else list(_first)
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _starts)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_int)
Dumper.add_representer(str, _represent_text)
Dumper.add_representer(tuple, yaml.representer.SafeRepresenter.represent_list)


def _fault(problem: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def parse(text: str, name: str) -> Any:
    """Return the value of one YAML document.

    Args:
        text: the document.
        name: of the document in errors, usually its path.

    Raises:
        UserError: naming `name` and the line.
    """
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        problem = error.problem or error.context or "not YAML"
        quote = "; quote '${name}' inside {} and []" if mark and "${" in (mark.get_snippet() or "") else ""
        raise UserError(f"{where}: {problem.replace('tag:yaml.org,2002:', '!!')}{quote}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{name}: not readable as YAML ({error})") from None
    if _size(value, 0, 0) > _MOST:
        raise UserError(f"{name}: an anchor holds itself, or aliases expand to more than {_MOST} values")
    return value


def _size(value: Any, count: int, depth: int) -> int:
    """Return `count` plus the number of values in a tree; stops after the most allowed, or 100 levels down."""
    if depth > 100:
        return _MOST + 1
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            if count > _MOST:
                break
            count = _size(item, count + 1, depth + 1)
    return count


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        UserError: naming the file, and the line where there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    value = parse(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping at top level, got a {type(value).__name__}")
    return value


def dump(value: Any) -> str:
    """Return YAML text in the order of the keys, which `parse` reads back."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)


@register_handler(["yaml", "yml"])
class SafeYamlHandler(BaseFileHandler):
    """The functions above behind mmengine's interface."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        return parse(file.read(), getattr(file, "name", "YAML")) or {}

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        return dump(obj)

    def dump_to_fileobj(self, obj: Any, file: io.TextIOBase, **kwargs: Any) -> None:
        file.write(dump(obj))
