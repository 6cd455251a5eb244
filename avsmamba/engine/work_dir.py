"""Work dirs: their names, the checkpoint to resume from, and the environment of a run for `env.json`."""

import glob
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.logging import print_log

from avsmamba.checkpoint.reading import name_some, read_file
from avsmamba.config.variants import config_name
from avsmamba.engine.sharded_files import ENDING, check_sharded
from avsmamba.info import installed
from avsmamba.utils import UserError, one_line
from avsmamba.version import __version__

_UNFINISHED = re.compile(r"\.(epoch|iter|best)_.*\.\w{8}\.pth$")

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def set_work_dir(cfg: Config, work_dir: str | None, config: str | Path) -> None:
    """Set `cfg.work_dir`: `work_dir`, else the config's own, else `work_dirs/` and the name of the file `config`."""
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs") / config_name(config))


def set_resume(cfg: Config, resume: str | None) -> None:
    """Write the option `--resume` into a config.

    'auto' replaces the config's `load_from`, from which mmengine would resume, by the last checkpoint of the work dir;
    if there is none, `load_from` stays, and without `load_from` the runner reports that there is nothing to resume.

    Raises:
        UserError: if the checkpoint does not exist.
    """
    if resume is None:
        return
    if resume != "auto" and not _is_checkpoint(Path(resume)):
        raise UserError(f"--resume: no such checkpoint: {resume}")
    checkpoint = find_latest(cfg.work_dir) if resume == "auto" else resume
    cfg.resume = checkpoint is not None or cfg.get("load_from") is None
    if checkpoint is not None:
        cfg.load_from = str(checkpoint)


def set_load_from(cfg: Config) -> None:
    """Replace a pattern in `load_from`, such as `work_dirs/NAME/best_M_J_*.pth`, by the one file that it matches.

    Raises:
        UserError: if there is no such file, or several.
    """
    pattern = cfg.get("load_from")
    if pattern is None or "://" in str(pattern) or _is_checkpoint(Path(pattern)):
        return
    found = sorted(p for p in glob.glob(str(pattern)) if _is_checkpoint(Path(p)))
    if not found:
        raise UserError(f"load_from: {pattern}: no such checkpoint")
    if len(found) > 1:
        raise UserError(f"load_from: {pattern}: expected one checkpoint, found {name_some(found)}")
    cfg.load_from = found[0]


def find_latest(work_dir: str | Path) -> Path | None:
    """Return the last checkpoint of a work dir that can be read; None if there is none.

    The work dir may have been moved. A damaged checkpoint is reported by a warning, and the one before it is taken.
    """
    for path in checkpoints(work_dir):
        try:
            check_sharded(path) if path.is_dir() else read_file(path)
        except UserError as error:
            print_log(f"{error}; the checkpoint before it is used, if there is one", "current", logging.WARNING)
        else:
            return path
    return None


def checkpoints(work_dir: str | Path) -> list[Path]:
    """List the checkpoints of a work dir, the last first: the one that `last_checkpoint` names, then by number."""
    folder = Path(work_dir)
    names = [f"{unit}_[0-9]*{ending}" for unit in ("epoch", "iter") for ending in (".pth", ENDING)]
    numbers = {path: int(path.stem.partition("_")[2]) for name in names for path in folder.glob(name)}
    found = sorted(numbers, key=lambda path: numbers[path], reverse=True)
    note = folder / "last_checkpoint"
    if note.is_file():
        named = folder / Path(note.read_text().strip()).name
        if _is_checkpoint(named):
            found = [named, *(path for path in found if path != named)]
    return found


def _is_checkpoint(path: Path) -> bool:
    return path.is_file() or (path.suffix == ENDING and path.is_dir())


@contextmanager
def only_run_in(work_dir: str | Path) -> Iterator[None]:
    """Keep a second training out of a work dir; after a crash or a kill it is free at once.

    Checkpoints that a killed run was writing, under temporary names (`utils.atomic_write`), are removed.

    Raises:
        UserError: if another process trains there, or the folder cannot be written.
    """
    if fcntl is None or int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) > 0:
        yield
        return
    path = Path(work_dir) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise UserError(f"work_dir: {work_dir}: cannot be written ({one_line(error)})") from None
    if file is None:
        raise UserError(
            f"work_dir: another training runs in {work_dir} (process {path.read_text() or 'unknown'}); "
            "wait for its end, or name another folder by --work-dir"
        )
    with file:
        for left in (p for p in path.parent.glob(".*.pth") if _UNFINISHED.match(p.name)):
            left.unlink(missing_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):  # the folder may have become read-only: the error that ended the training counts
                path.unlink()


def _locked(path: Path) -> TextIO | None:
    """Open and lock a file that contains this process's number; None if another process has locked it."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except FileNotFoundError:
            current = False
        if current:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file
        file.close()  # the run before removed the file between opening and locking


def environment(seed: int) -> dict[str, Any]:
    """Return command, seed, hardware, versions and commit of this run."""
    device, program = get_device(), sys.argv[0]
    words = ["avsmamba"] if Path(program).name == "avsmamba" else [Path(sys.executable).name, program]
    return {
        "command": " ".join([*words, *sys.argv[1:]]),
        "seed": seed,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "processes": get_world_size(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "avsmamba": __version__,
        "commit": _commit(),
        **{name: installed(name) for name in ("torch", "torchvision", "mmengine", "timm", "numpy")},
    }


def _commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the git commit of a source tree, None without git; with a + if code or configs differ from it."""
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        places = [f":/{place}" for place in ("avsmamba", "configs", "csrc")]
        same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *places], capture_output=True, timeout=10)
        return name + "+" * (same.returncode != 0)
    except (OSError, subprocess.SubprocessError):
        return None
