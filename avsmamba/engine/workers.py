"""The data workers of a training: their sockets, their end, and their death."""

import multiprocessing.util
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.multiprocessing
from mmengine.config import Config

from avsmamba.utils import UserError, one_line

_DIED = re.compile(r"DataLoader worker \(pid.* (is killed|exited unexpectedly)")

# What a data worker adds to the folder of temporary files for the socket through which it passes tensors, and how long
# the path of a socket can be.
_SOCKET = "/pymp-12345678/listener-12345678"
_LONGEST = 107


def check_sockets(cfg: Config) -> None:
    """Check that the data workers of a config can make their sockets; if not, the training waits for them for ever.

    Raises:
        UserError: if the path of the folder of temporary files is too long for them.
    """
    loaders = [cfg.get(f"{split}_dataloader") or {} for split in ("train", "val", "test")]
    # Later versions of Python take another folder by themselves, in the function that is looked for here.
    if (
        not any(loader.get("num_workers") for loader in loaders)
        or torch.multiprocessing.get_sharing_strategy() != "file_descriptor"
        or hasattr(multiprocessing.util, "_get_base_temp_dir")
    ):
        return
    folder = tempfile.gettempdir()
    length, longest = len(folder.encode()), _LONGEST - len(_SOCKET)
    if length > longest:
        raise UserError(
            f"{folder}: the path of the folder of temporary files has {length} characters, and data workers need one "
            f"of at most {longest} for their sockets; set TMPDIR to a shorter one, or num_workers to 0"
        )


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
