"""Read byte ranges of files in a folder, at a URL, or from a command, with a cache of whole files on disk."""

import hashlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avsmamba.utils import UserError, atomic_write, is_remote, one_line

PIPE = "pipe:"
NAME = "{name}"
CACHE, CACHE_LIMIT, ALLOW_PIPE = "AVSMAMBA_SHARD_CACHE", "AVSMAMBA_SHARD_CACHE_GB", "AVSMAMBA_PIPE"
TRIES = 4


class Store:
    """Files below one root.

    Args:
        root: a folder; a URL of a folder of any scheme of fsspec (`file://`, `http://`, `https://`, `s3://`, …), of
            which byte ranges are read; or `pipe:COMMAND`, a program (run without a shell) that writes the file whose
            name replaces `{name}` to its standard output.

    Environment variables, since they belong to the machine and not to the experiment:
        AVSMAMBA_SHARD_CACHE: folder into which every shard is copied as a whole at its first use, checked by its
            SHA-256, and read from then on; required with `pipe:`. Processes of one machine may share it.
        AVSMAMBA_SHARD_CACHE_GB: size of the cache in 1e9 bytes; the shards that were read least recently are removed.
            Default: no limit.
        AVSMAMBA_PIPE: 1 permits `pipe:`, since a config that contains it runs a program.

    Raises:
        UserError: if the root is a command that is not permitted or lacks `{name}`, or a limit is not a number.
    """

    def __init__(self, root: str):
        self.root = root.removeprefix("file://") if root.startswith("file://") else root
        self.remote = is_remote(self.root)
        folder = os.environ.get(CACHE, "")
        self.cache = Path(folder).expanduser() / _digest(self.root)[:16] if folder and self.remote else None
        try:
            self.limit = float(os.environ.get(CACHE_LIMIT) or "inf") * 1e9
        except ValueError:
            raise UserError(f"{CACHE_LIMIT}: expected a number, got {os.environ[CACHE_LIMIT]!r}") from None
        if self.root.startswith(PIPE):
            if os.environ.get(ALLOW_PIPE) != "1":
                raise UserError(f"data_root: {root}: runs a program; {ALLOW_PIPE}=1 in the environment permits it")
            if NAME not in self.root:
                raise UserError(f"data_root: {root}: expected {NAME} in the command, for the name of a file")
            if self.cache is None:
                raise UserError(f"data_root: {root}: expected the folder of a cache in {CACHE}: a pipe is read once")

    def __str__(self) -> str:
        return self.root

    def place(self, name: str) -> str:
        """Return the path, URL or command of a file, for messages."""
        if self.root.startswith(PIPE):
            return self.root.replace(NAME, name)
        return f"{self.root.rstrip('/')}/{name}"

    def read(self, name: str, start: int | None = None, stop: int | None = None, sha256: str = "") -> bytes:
        """Return the bytes `[start, stop)` of a file, without bounds all of them.

        Args:
            name: of the file below the root.
            start: first byte.
            stop: byte after the last one.
            sha256: of the whole file, compared when it is copied to the cache; files without one are not cached.

        Raises:
            UserError: if the file is missing, cannot be read, is shorter, or has another SHA-256.
        """
        if not self.remote:
            content = self._read_file(Path(self.root) / name, start, stop)
        elif self.cache is not None and sha256:
            content = self._read_cached(name, start, stop, sha256)
        else:
            content = self._fetch(name, start, stop)
        if start is not None and stop is not None and len(content) != stop - start:
            raise UserError(
                f"{self.place(name)}: expected bytes {start} to {stop}, got {len(content)}: the file is cut short, or "
                f"the server does not serve ranges of bytes ({CACHE} names a folder for whole files)"
            )
        return content

    def _read_file(self, path: Path, start: int | None, stop: int | None) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start or 0)
                return file.read(-1 if stop is None else stop - (start or 0))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected a part of a data set in shards") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None

    def _read_cached(self, name: str, start: int | None, stop: int | None, sha256: str) -> bytes:
        from filelock import FileLock

        assert self.cache is not None
        path = self.cache / name
        while True:
            try:
                now = time.time_ns()
                os.utime(path, ns=(now, now))  # the last use, by which the cache is emptied
                with path.open("rb") as file:
                    file.seek(start or 0)
                    return file.read(-1 if stop is None else stop - (start or 0))
            except FileNotFoundError:
                self.cache.mkdir(parents=True, exist_ok=True)
            with FileLock(self.cache / f".{name}.lock"):
                if not path.is_file():
                    content = self._fetch(name, None, None)
                    if (found := hashlib.sha256(content).hexdigest()) != sha256:
                        raise UserError(f"{self.place(name)}: expected SHA-256 {sha256}, got {found}")
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(content)
                    self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """Remove the files of the cache that were used least recently, beyond its limit."""
        found = []
        for path in newest.parent.parent.glob("*/[!.]*"):
            try:
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:  # another process removed it
                continue
        total = 0
        for _, size, path in sorted(found, reverse=True):
            total += size
            if total > self.limit and path != newest:
                path.unlink(missing_ok=True)

    def _fetch(self, name: str, start: int | None, stop: int | None) -> bytes:
        if self.root.startswith(PIPE):
            return self._run(name)[start or 0 : stop]
        return _retried(lambda: self._download(name, start, stop), self.place(name))

    def _download(self, name: str, start: int | None, stop: int | None) -> bytes:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(self.place(name))
        return bytes(filesystem.cat_file(path, start=start, end=stop))

    def _run(self, name: str) -> bytes:
        command = [part.replace(NAME, name) for part in shlex.split(self.root.removeprefix(PIPE))]
        try:
            result = subprocess.run(command, capture_output=True, check=False)
        except OSError as error:
            raise UserError(f"{self.place(name)}: cannot be run: {error.strerror}") from None
        if result.returncode:
            last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"{self.place(name)}: ended with status {result.returncode}: {''.join(last)}")
        return result.stdout


def _retried(read: Callable[[], bytes], place: str) -> bytes:
    """Return what `read` returns; a transfer that fails is tried again after 1, 2 and 4 s."""
    from asyncio import TimeoutError as AsyncTimeoutError

    failures: tuple[type[BaseException], ...] = (OSError, AsyncTimeoutError, *_client_errors())
    for attempt in range(TRIES):
        try:
            return read()
        except FileNotFoundError:
            raise UserError(f"{place}: no such file; expected a part of a data set in shards") from None
        except ImportError as error:
            raise UserError(f'{place}: {one_line(error)}; try pip install "avsmamba[shards]"') from None
        except failures as error:
            if attempt == TRIES - 1:
                raise UserError(f"{place}: cannot be read after {TRIES} tries: {one_line(error)}") from None
            time.sleep(2**attempt)
    raise AssertionError


def _client_errors() -> tuple[Any, ...]:
    try:
        from aiohttp import ClientError
    except ImportError:
        return ()
    return (ClientError,)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
