"""Running a tool: an error that the user can mend is one line on stderr and exit status 2."""

import os
import sys
from collections.abc import Callable

from avsmamba.utils import UserError


def run_tool(function: Callable[[], object]) -> None:
    """Call `function` and leave the process with status 0, 2 for a UserError, 130 for Ctrl-C.

    Set AVSMAMBA_TRACEBACK=1 to see where a UserError comes from.
    """
    try:
        function()
    except UserError as error:
        if os.environ.get("AVSMAMBA_TRACEBACK"):
            raise
        sys.stdout.flush()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def one_line(error: UserError) -> str:
    """The message; one raised in a data worker comes with that process's traceback in front, which is cut off."""
    text = str(error).strip()
    marker = f"{UserError.__name__}: "
    if "\n" in text and marker in text:
        text = text.rpartition(marker)[2]
    return " ".join(text.split())
