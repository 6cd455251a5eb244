"""Options that several commands have, and the root of the source tree."""

import argparse
import os
from pathlib import Path

from avsmamba.choices import LAUNCHERS, SOUNDS
from avsmamba.utils import UserError


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`."""
    parser.add_argument(
        "--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of the config"
    )


MODEL = "CONFIG|FOLDER|NAME|USER/NAME"
MODEL_HELP = "a YAML config, a published model's folder, the name of a shipped model, or USER/NAME of the hub"


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add `--data-root`."""
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder with Single-source/, Multi-sources/ or AVSS/ (default: AVSBENCH_ROOT, else the config's)",
    )


def add_audio(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add `--audio`, with `more` at the end of its help."""
    parser.add_argument(
        "--audio", choices=SOUNDS, default="real", help=f"sound that the model gets (default: %(default)s){more}"
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add `--amp`, `--launcher` and the rank that older launchers pass."""
    parser.add_argument("--amp", action="store_true", help="mixed precision (bfloat16; also on the CPU)")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="launcher of the processes: torchrun (pytorch) or srun (slurm) (default: %(default)s)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add `--jobs`."""
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time, each with one thread if N > 1 (default: 1)"
    )


def checked_jobs(jobs: int) -> int:
    """Return the value of `--jobs`; raise a UserError if it is below 1."""
    if jobs < 1:
        raise UserError(f"--jobs: expected at least 1, got {jobs}")
    return jobs


def set_local_rank(rank: int | None) -> None:
    """Set LOCAL_RANK to the value of the option, unless it is set."""
    if rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(rank))


def source_tree() -> Path:
    """Return the root of the source tree: the package's parent folder, else the working directory.

    Raises:
        UserError: if neither has the folder `configs`.
    """
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "configs").is_dir():
            return folder
    raise UserError("configs/: no such folder; this command reads the source tree: run it in a clone of the repository")
