"""Files of each browser tab, removed when the tab is closed."""

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avsmamba.web.results import Result


class SessionClosed(Exception):
    """The tab was closed during a request."""


class Uploads:
    """Counts the tabs that show each uploaded file: Gradio stores files of equal content once."""

    def __init__(self) -> None:
        self._tabs: Counter[Path] = Counter()
        self._lock = threading.Lock()

    def replace(self, before: Path | None, after: Path | None) -> None:
        """Count `after` once more and `before` once less; a file that no tab shows is deleted."""
        with self._lock:
            if after is not None:
                self._tabs[after] += 1
            if before is None:
                return
            self._tabs[before] -= 1
            if not self._tabs[before]:
                del self._tabs[before]
                before.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # other files of the folder
                    before.parent.rmdir()


class Session:
    """One tab; the value of the page's `gr.State`.

    Args:
        root: folder of all sessions.
        uploads: shared by all sessions.

    Attributes:
        folder: of this session, with a name that cannot be guessed; created by the first run.
        result: of the last run.
        drawing: held while files of the result are drawn and while the result is replaced.
    """

    def __init__(self, root: Path, uploads: Uploads) -> None:
        self.folder = root / secrets.token_urlsafe(16)
        self.result: Result | None = None
        self.drawing = threading.Lock()
        self.closed = False
        self._uploads = uploads
        self._shown: dict[str, Path | None] = {}

    def check_open(self) -> None:
        """Raise SessionClosed if the tab was closed."""
        if self.closed:
            raise SessionClosed

    def show(self, field: str, path: str | None) -> None:
        """Record the upload that a field of the tab shows; the previous one is released."""
        before, self._shown[field] = self._shown.get(field), Path(path) if path else None
        self._uploads.replace(before, self._shown[field])

    def close(self) -> None:
        """Delete the files of the tab. A run in progress ends at its next report."""
        self.closed = True
        for field in list(self._shown):
            self.show(field, None)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create a folder; delete it if the block raises."""
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def link(upload: Path, folder: Path) -> Path:
    """Link a file, or copy it where links are not possible, into a new folder: it outlives the upload."""
    folder.mkdir()
    target = folder / upload.name
    try:
        os.link(upload, target)
    except OSError:
        shutil.copyfile(upload, target)
    return target


def without_folders(text: str, root: Path) -> str:
    """Replace each path in a message by its last part, the file name that the user knows."""
    text = re.sub(rf"{re.escape(str(root))}/(?:[\w-]+/)*", "", text)
    return re.sub(r"(?<![\w/.:])(?:/[^\s/:'\",;()]+)+/([^\s/:'\",;()]+)", r"\1", text)
