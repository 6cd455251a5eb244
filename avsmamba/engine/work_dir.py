"""Work dirs: their names, the checkpoint to resume from, and the environment of a run for `env.json`."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size

from avsmamba.config.variants import config_name
from avsmamba.info import installed
from avsmamba.utils import UserError
from avsmamba.version import __version__


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
    if resume != "auto" and not Path(resume).is_file():
        raise UserError(f"--resume: no such checkpoint: {resume}")
    checkpoint = find_latest(cfg.work_dir) if resume == "auto" else resume
    cfg.resume = checkpoint is not None or cfg.get("load_from") is None
    if checkpoint is not None:
        cfg.load_from = str(checkpoint)


def find_latest(work_dir: str | Path) -> Path | None:
    """Return the last complete checkpoint of a work dir, which may have been moved; None if there is none."""
    folder = Path(work_dir)
    note = folder / "last_checkpoint"
    if note.is_file():
        named = folder / Path(note.read_text().strip()).name
        if named.is_file():
            return named
    found = [(int(p.stem.partition("_")[2]), p) for s in ("epoch", "iter") for p in folder.glob(f"{s}_[0-9]*.pth")]
    return max(found)[1] if found else None


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
