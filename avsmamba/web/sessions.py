"""What the page keeps for each browser tab: a folder of its own, removed when the tab is gone."""

import os
import re
import secrets
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avsmamba.web.results import Result


class Gone(Exception):
    """The tab has been closed while something was done for it."""


@dataclass
class Session:
    """One tab. `result` is what its last run gave; `uploads` are the files that it shows, by the field they are in."""

    folder: Path
    result: "Result | None" = None
    uploads: dict[str, Path] = field(default_factory=dict)
    closed: bool = False
    # Held while files of the result are drawn, and while it is replaced.
    drawing: threading.Lock = field(default_factory=threading.Lock)

    def check_open(self) -> None:
        """Raises Gone if the tab has been closed."""
        if self.closed:
            raise Gone

    def new_folder(self) -> Path:
        """An empty folder inside the session's."""
        self.check_open()
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir(parents=True)
        return folder


class Sessions:
    """All open tabs, by the name that Gradio gives each.

    Args:
        root: the folder that holds everything; also where Gradio puts what is sent to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, Session] = {}
        self._gone: set[str] = set()
        self._lock = threading.Lock()

    def get(self, name: str) -> Session:
        """The tab's session; made when it is new.

        Raises:
            Gone: if it has been closed: what waited in the queue for it is not done.
        """
        with self._lock:
            if name in self._gone:
                raise Gone
            if name not in self._open:
                # Not the tab's own name: who learns that one must not be able to guess where the files are.
                self._open[name] = Session(self.root / "sessions" / secrets.token_urlsafe(16))
            return self._open[name]

    def is_open(self, name: str) -> bool:
        """Whether the tab is known."""
        return name in self._open

    def hold(self, name: str, slot: str, upload: Path | None) -> None:
        """Note that the tab's field `slot` shows this file; the one that it showed before goes when nobody holds it."""
        try:
            session = self.get(name)
        except Gone:
            return
        with self._lock:
            before = session.uploads.pop(slot, None)
            if upload is not None:
                session.uploads[slot] = upload
            self._drop(before)

    def close(self, name: str) -> None:
        """Remove all that the tab has left. Work that is under way for it ends at its next step."""
        with self._lock:
            self._gone.add(name)
            session = self._open.pop(name, None)
            if session is None:
                return
            session.closed = True
            uploads, session.uploads = session.uploads, {}
            for upload in uploads.values():
                self._drop(upload)
        shutil.rmtree(session.folder, ignore_errors=True)

    def _drop(self, upload: Path | None) -> None:
        # Gradio keeps one copy of a file that two tabs have sent.
        held = {path for session in self._open.values() for path in session.uploads.values()}
        if upload is None or upload in held:
            return
        upload.unlink(missing_ok=True)
        if upload.parent != self.root and not any(upload.parent.iterdir()):
            upload.parent.rmdir()


def keep(upload: Path, folder: Path) -> Path:
    """The file in a new folder too, without a copy where the file system can; it stays when the upload is removed."""
    folder.mkdir()
    target = folder / upload.name
    try:
        os.link(upload, target)
    except OSError:
        shutil.copyfile(upload, target)
    return target


def public(text: str, root: Path) -> str:
    """A message without paths of the server: of each path the last part, which is a name that the user knows."""
    text = re.sub(rf"{re.escape(str(root))}/(?:[\w-]+/)*", "", text)
    return re.sub(r"(?<![\w/.:])(?:/[^\s/:'\",;()]+)+/([^\s/:'\",;()]+)", r"\1", text)
