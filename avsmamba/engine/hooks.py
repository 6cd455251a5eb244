"""Hooks: plain checkpoints, exact resume, a stop at NaN, and logs whose cost does not grow."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner

from avsmamba.engine.distributed import unwrapped
from avsmamba.engine.seeding import SeededSampler, SkippingIterator, mix, seed_everything
from avsmamba.engine.sharding import distributed_like
from avsmamba.limits import counts, limits
from avsmamba.registry import HOOKS
from avsmamba.utils import UserError

Checkpoint = dict[str, Any]


class NotFiniteError(UserError):
    """A training that was stopped because its loss or gradient was not finite."""


_PATH_KEYS = ("last_ckpt", "best_ckpt")


def plain(value: Any) -> Any:
    """Convert a value to Python's own types and tensors, which `torch.load(weights_only=True)` accepts."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value) if type(value) in (list, tuple) else [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)) else str(value)


@HOOKS.register_module()
class PlainCheckpoint(Hook):
    """Write tensors and plain values only, and paths relative to the work dir.

    mmengine stores its log history as objects, which `torch.load(weights_only=True)` refuses, and absolute paths, by
    which a moved or copied run would delete the best checkpoint of the original.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: Checkpoint) -> None:
        info = {k: v for k, v in plain(checkpoint["message_hub"]["runtime_info"]).items() if k != "cfg"}
        for key, value in info.items():
            if key.startswith(_PATH_KEYS) and isinstance(value, str):
                info[key] = Path(value).name
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": info, "resumed_keys": dict.fromkeys(info, True)}
        checkpoint["meta"] = plain(checkpoint["meta"])

    def after_load_checkpoint(self, runner: Runner, checkpoint: Checkpoint) -> None:
        info = checkpoint.get("message_hub", {}).get("runtime_info", {})
        for key, value in info.items():
            if key.startswith(_PATH_KEYS) and isinstance(value, str):
                info[key] = str(Path(runner.work_dir) / Path(value).name)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        for hook in runner.hooks:
            for name in (getattr(hook, "save_best", None) or ()) if isinstance(hook, CheckpointHook) else ():
                if metrics and name != "auto" and name not in metrics:
                    raise UserError(f"default_hooks.checkpoint.save_best: no metric {name!r}; there are {[*metrics]}")


@HOOKS.register_module()
class ExactResume(Hook):
    """A resumed run ends with the same weights as an uninterrupted one.

    The model's random numbers (dropout) are seeded by iteration and rank, the iteration loop continues at the next
    batch without loading the previous ones, and accumulated gradients are saved in the checkpoint (one process only).
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        endless = isinstance(loop, IterBasedTrainLoop)
        if endless and loop._iter and isinstance(loop.dataloader.sampler, SeededSampler):
            loop.dataloader_iterator = SkippingIterator(loop.dataloader, loop._iter, type(loop.dataloader_iterator))
        for name, parameter in unwrapped(runner.model).named_parameters():
            if name in self.gradients:
                gradient = self.gradients[name].to(parameter.device, parameter.dtype)
                parameter.grad = distributed_like(gradient, parameter)
        self.gradients = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(mix(runner.seed, runner.iter, runner.rank, 1))

    def before_save_checkpoint(self, runner: Runner, checkpoint: Checkpoint) -> None:
        wrapper = runner.optim_wrapper
        if "optimizer" not in checkpoint or not isinstance(wrapper, OptimWrapper) or wrapper.should_update():
            return
        if runner.world_size > 1:
            runner.logger.warning("This checkpoint is between two optimizer steps: on resume, gradients are lost")
            return
        gradients = {n: p.grad for n, p in unwrapped(runner.model).named_parameters() if p.grad is not None}
        checkpoint["gradients"] = {n: g.detach().cpu().clone() for n, g in gradients.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: Checkpoint) -> None:
        self.gradients = checkpoint.get("gradients", {}) if runner._resume else {}


@HOOKS.register_module()
class NaNGuard(Hook):
    """Stop at the first loss, or norm of the gradients, that is not finite, before weights are saved."""

    priority = "HIGH"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        values = {k: float(torch.as_tensor(v).detach().sum()) for k, v in (outputs or {}).items()}
        norm = runner.message_hub.log_scalars.get("train/grad_norm")
        # A loss scaler expects infinite gradients and skips that step.
        if norm is not None and not hasattr(runner.optim_wrapper, "loss_scaler"):
            values["grad_norm"] = float(norm.current())
        faults = ", ".join(f"{k} is {v}" for k, v in values.items() if not math.isfinite(v))
        if faults:
            where = f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}"
            raise NotFiniteError(
                f"training stopped at {where}: {faults}; try a lower learning rate or optim_wrapper.clip_grad, "
                "or train without --amp"
            )


@HOOKS.register_module()
class ShortHistory(Hook):
    """Shorten the history of each logged value: mmengine copies all of it on every update.

    Args:
        length: values to keep.
        interval: iterations between two cuts.
    """

    @limits(**counts("length", "interval"))
    def __init__(self, length: int = 5000, interval: int = 1000):
        self.length, self.interval = length, interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            for history in runner.message_hub.log_scalars.values():
                history._log_history = history._log_history[-self.length :]
                history._count_history = history._count_history[-self.length :]
