"""Exit statuses of commands: an error that the user can correct is one line on stderr and status 2."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from avsmamba.utils import UserError, one_line


def run_tool(function: Callable[[], int | None]) -> int:
    """Call `function` and return its status, 0 for None.

    A UserError and a ValueError raised by avsmamba's own code are errors that the user can correct. Set
    AVSMAMBA_TRACEBACK=1 to see where such an error was raised.

    Raises:
        SystemExit: with status 2 for an error that the user can correct, 130 for Ctrl-C.
    """
    try:
        return function() or 0
    except (UserError, ValueError) as error:
        if os.environ.get("AVSMAMBA_TRACEBACK") or not (isinstance(error, UserError) or _is_ours(error)):
            raise
        sys.stdout.flush()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass
    # Outside the handler: with the exception go the frames of what was interrupted, and their data workers stop.
    sys.exit(130)


def _is_ours(error: ValueError) -> bool:
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(__file__).parent)
