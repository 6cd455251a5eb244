"""Train the model of a config: `avsmamba train`."""

from collections.abc import Sequence
from pathlib import Path

from avsmamba.config.load import load_config, parse_options
from avsmamba.engine.distributed import process_group
from avsmamba.engine.optim import use_amp
from avsmamba.engine.runner import AVSRunner
from avsmamba.engine.work_dir import only_run_in, set_load_from, set_resume, set_work_dir
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
    """Train the model of a config.

    Args:
        config: YAML file.
        work_dir: for checkpoints and logs; default: the config's, else `work_dirs/` and the config's name.
        resume: a checkpoint, or 'auto' for the last one of the work dir, if there is one.
        amp: mixed precision, bfloat16 on the CPU.
        launcher: 'none', 'pytorch' or 'slurm'.
        options: `key=value` strings that override the config.
        data_root: folder with `Single-source/`, `Multi-sources/` and `AVSS/`.

    Returns:
        The work dir.

    Raises:
        UserError: if the config, its data or its weights are missing or faulty, another training runs in the work dir,
            the disk is full, or a data worker died.
    """
    cfg = load_config(config, parse_options(options), data_root)
    if cfg.get("train_cfg") is None:
        raise UserError(f"{config}: has no train_cfg: nothing to train")
    set_work_dir(cfg, work_dir, config)
    set_load_from(cfg)
    if amp:
        use_amp(cfg)
    with only_run_in(cfg.work_dir):
        set_resume(cfg, resume)
        with process_group(cfg, launcher):
            AVSRunner.from_cfg(cfg).train()
    return Path(cfg.work_dir)
