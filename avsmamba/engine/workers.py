"""The data workers of a training: their end, and their death."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avsmamba.utils import UserError, one_line

_DIED = re.compile(r"DataLoader worker \(pid.* (is killed|exited unexpectedly)")


@contextmanager
def reporting_dead_workers() -> Iterator[None]:
    """Convert the error of a data worker that died.

    Raises:
        UserError: if a data worker died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_of_a_dead_worker(error):
            raise
        raise UserError(
            f"a data worker died ({one_line(error)}), as it does if the system has no memory left; continue with "
            "--resume, with fewer workers or smaller batches if it happens again"
        ) from error


def stop_workers(loop: Any) -> None:
    """Stop the data workers of a loop of mmengine, if it has any.

    At the end of the program they would be killed and leave temporary files, and the garbage collector waits for ten
    seconds.
    """
    holder: Any
    for holder in (getattr(loop, "dataloader", None), getattr(loop, "dataloader_iterator", None)):
        if hasattr(getattr(holder, "_iterator", None), "_shutdown_workers"):
            holder._iterator._shutdown_workers()
            holder._iterator = None


def _is_of_a_dead_worker(error: BaseException) -> bool:
    """Return whether torch reports a dead data worker, or the dataloader found its connection to one closed."""
    if isinstance(error, RuntimeError):
        return bool(_DIED.search(str(error)))
    return any(Path(frame.filename).name == "dataloader.py" for frame in traceback.extract_tb(error.__traceback__))
