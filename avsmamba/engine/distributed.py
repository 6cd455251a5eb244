"""Process groups: torchrun and slurm, on GPUs as mmengine does it, on the CPU by gloo."""

import gc
import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from torch import nn

from avsmamba.choices import LAUNCHERS
from avsmamba.utils import UserError


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DDP or another wrapper, else the model itself."""
    return model.module if is_model_wrapper(model) else model


@contextmanager
def process_group(cfg: Config, launcher: str) -> Iterator[None]:
    """Prepare `cfg` for a launcher, create the process group where mmengine does not (CPU), and destroy it at the end.

    Args:
        cfg: gets `launcher` and `model_wrapper_cfg`.
        launcher: 'none', 'pytorch' (started by torchrun) or 'slurm' (started by srun).

    Raises:
        UserError: if the launcher is unknown or its environment variables are missing.
    """
    if launcher not in LAUNCHERS:
        raise UserError(f"--launcher: expected one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    cfg.launcher = launcher
    if launcher == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
            raise UserError("--launcher: this is one of several processes of torchrun; pass --launcher pytorch")
        yield
        return
    needed = {"pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "slurm": ("SLURM_PROCID", "SLURM_NTASKS")}[launcher]
    missing = [name for name in needed if name not in os.environ]
    if missing:
        starter = {"pytorch": "torchrun", "slurm": "srun"}[launcher]
        raise UserError(f"--launcher {launcher}: {missing[0]} is not set; start the processes with {starter}")
    # Harmless: DDP copies the gradients of 1 x 1 convolutions because of their memory layout.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # mmengine's default wrapper passes device_ids, an error on the CPU, and broadcast_buffers, of which torch warns.
    wrapper = cfg.get("model_wrapper_cfg") or {"find_unused_parameters": cfg.get("find_unused_parameters", False)}
    cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", **wrapper}
    if not torch.cuda.is_available():
        if cfg.model_wrapper_cfg["type"] != "FullyShard":
            cfg.model_wrapper_cfg["device_ids"] = None
        if launcher == "slurm":
            _slurm_environment()
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        if dist.is_initialized():
            # If a model in DDP outlives the group, one process in twenty aborts (gloo, torch 2.14).
            gc.collect()
            dist.destroy_process_group()


def _slurm_environment() -> None:
    """Set the variables that torch reads from slurm's; the first host is the master."""
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host(os.environ.get("SLURM_NODELIST", ""))


def _first_host(nodes: str) -> str:
    """Return the first of slurm's host list, which may be written as `node[3-5,8]`."""
    if not nodes:
        return "127.0.0.1"
    try:
        names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return names.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
        return "".join(part or "" for part in first.groups()) if first else nodes
