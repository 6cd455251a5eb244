"""Running a tool: an error that the user can mend is one line on stderr and exit status 2."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import avsmamba
from avsmamba.utils import UserError


def run_tool(function: Callable[[], object]) -> None:
    """Call `function` and leave the process with status 0, 2 for what the user can mend, 130 for Ctrl-C.

    The user can mend a UserError, and a ValueError that avsmamba's own code raises of its arguments. Set
    AVSMAMBA_TRACEBACK=1 to see where such an error comes from.
    """
    try:
        function()
    except (UserError, ValueError) as error:
        if os.environ.get("AVSMAMBA_TRACEBACK") or not (isinstance(error, UserError) or _is_ours(error)):
            raise
        sys.stdout.flush()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _is_ours(error: ValueError) -> bool:
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(avsmamba.__file__).parent)


def one_line(error: Exception) -> str:
    """The message; one raised in a data worker comes with that process's traceback in front, which is cut off."""
    text = str(error).strip()
    marker = f"{UserError.__name__}: "
    if "\n" in text and marker in text:
        text = text.rpartition(marker)[2]
    return " ".join(text.split())
