"""Errors that the user can correct, and files that are written completely or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """An error in the user's input (file, config key, shape). Commands print it in one line and exit with status 2."""


def one_line(error: object, *preferred: str) -> str:
    """Return an error's first line, its class's name if it has none; all lines of a UserError or Warning, joined.

    Args:
        error: an exception or a warning. The traceback that a data worker puts before a UserError is removed.
        preferred: strings; the first line that contains one of them is returned instead.
    """
    if isinstance(error, (UserError, Warning)):
        return " ".join(str(error).rpartition(f"{__name__}.UserError: ")[2].split())
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    matching = [line for line in lines if any(text in line for text in preferred)]
    return (matching or lines or [type(error).__name__])[0][:300]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on an error it is removed.

    The parent folder is created. The temporary name keeps the suffix of `path`, by which writers choose a format.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_remote(root: str) -> bool:
    """Return whether a `data_root` is a URL, or a command after `pipe:`, not a folder."""
    return root.startswith("pipe:") or "://" in root


def read_json(file: Path) -> dict[str, Any]:
    """Read the mapping in a JSON file.

    Raises:
        UserError: if the file cannot be read or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a mapping, got a {type(value).__name__}")
    return value
