"""Train what a config file describes: `avsmamba train`."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from avsmamba.checkpoint.load import find_latest
from avsmamba.config.load import load_config, parse_options
from avsmamba.config.variants import config_name
from avsmamba.engine.distributed import process_group
from avsmamba.engine.optim import use_amp
from avsmamba.engine.runner import AVSRunner
from avsmamba.utils import UserError


def train(
    config: str | Path,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    launcher: str = "none",
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> Path:
    """Train what a config describes.

    Args:
        config: YAML file.
        work_dir: for checkpoints and logs; else the config's, else `work_dirs/` and the config's name.
        resume: 'auto' goes on from the last checkpoint of the work dir, where there is one; else a checkpoint.
        amp: mixed precision, bfloat16 on the CPU.
        launcher: 'none', 'pytorch' or 'slurm'.
        options: `key=value` words that override the config.
        data_root: folder with `Single-source/`, `Multi-sources/` and `AVSS/`.

    Returns:
        The work dir.

    Raises:
        UserError: for what the user can mend, in one line.
    """
    cfg = load_config(config, parse_options(options), data_root)
    if cfg.get("train_cfg") is None:
        raise UserError(f"{config}: has no train_cfg: nothing to train")
    cfg.work_dir = work_dir or cfg.get("work_dir") or default_work_dir(config)
    set_resume(cfg, resume)
    if amp:
        use_amp(cfg)
    with process_group(cfg, launcher):
        AVSRunner.from_cfg(cfg).train()
    return Path(cfg.work_dir)


def default_work_dir(config: str | Path) -> str:
    """`work_dirs/` and the config's name without its ending."""
    return str(Path("work_dirs") / config_name(config))


def set_resume(cfg: Config, resume: str | None) -> None:
    """Write `--resume` into a config.

    An automatic resume puts the last checkpoint in the place of the config's `load_from`, from which mmengine would
    resume otherwise; without a checkpoint `load_from` stays.
    """
    if resume is None:
        return
    if resume != "auto":
        if not Path(resume).is_file():
            raise UserError(f"--resume: no such checkpoint: {resume}")
        cfg.load_from, cfg.resume = resume, True
        return
    latest = find_latest(cfg.work_dir)
    if latest is not None:
        cfg.load_from, cfg.resume = str(latest), True
    else:
        # Without load_from the runner says itself that there is nothing to resume.
        cfg.resume = cfg.get("load_from") is None
