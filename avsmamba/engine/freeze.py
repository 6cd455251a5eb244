"""A hook that trains the rest of a model first."""

import gc
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avsmamba.registry import HOOKS
from avsmamba.utils import UserError


@HOOKS.register_module()
class FreezeBackbone(Hook):
    """Freeze a part of the model for the first epochs or iterations; after them it trains like the rest.

    What is frozen has no gradient, so that neither the optimizer's step nor its weight decay changes it, and its
    activations are not kept. It stays in training mode: drop path is active and the running statistics of a batch
    normalisation go on, as in the training of AVS-Mamba's authors (`norm_eval: true` of a backbone stops the latter).
    Parameters that do not train anyway (`frozen: true`) never do. Whether it is time follows from the epoch or the
    iteration alone, and so it does in a resumed run.

    Source: the authors freeze the visual backbone for 20 epochs in S4 and MS3, never in AVSS; AVSegFormer's for 5 in
    S4 and 10 in MS3.

    Args:
        epochs: how many; of training by epoch.
        iters: how many, instead of epochs.
        part: which part, by its attribute of the model: `backbone`, `audio_encoder`, or a dotted path into one.

    Raises:
        UserError: unless one of `epochs` and `iters` is given, and is 0 or more; in training, if the model has no such
            part, `epochs` is given in a training by iteration, or the model is distributed in another way than DDP's.
    """

    def __init__(self, epochs: int | None = None, iters: int | None = None, part: str = "backbone"):
        count = iters if epochs is None else epochs
        if (epochs is None) == (iters is None) or not isinstance(count, int) or count < 0:
            raise UserError(
                f"FreezeBackbone: expected epochs or iters, a number from 0, got epochs {epochs} and iters {iters}"
            )
        self.epochs, self.iters, self.part = epochs, iters, part
        self.frozen: list[nn.Parameter] | None = None

    def before_train(self, runner: Runner) -> None:
        if self.epochs is not None and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise UserError("FreezeBackbone: epochs is of training by epoch; give iters")
        model = _module(runner)
        if self.part not in {name for name, _ in model.named_modules() if name}:
            children = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"FreezeBackbone: the model has no part {self.part!r}; it has {children}")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        early = runner.iter < self.iters if self.iters is not None else runner.epoch < (self.epochs or 0)
        if early and self.frozen is None:
            self.frozen = [p for p in _module(runner).get_submodule(self.part).parameters() if p.requires_grad]
            switch(runner, self.frozen, False)
            until = f"{self.epochs} epochs" if self.iters is None else f"{self.iters} iterations"
            runner.logger.info(f"{self.part}: {size(self.frozen)} do not train for the first {until}")
        elif self.frozen is not None and not early:
            switch(runner, self.frozen, True)
            where = f"epoch {runner.epoch + 1}" if self.iters is None else f"iteration {runner.iter + 1}"
            runner.logger.info(f"{self.part}: {size(self.frozen)} train from {where} on")
            self.frozen = None


def size(parameters: Sequence[nn.Parameter]) -> str:
    """How many numbers parameters hold, in words."""
    return f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters"


def switch(runner: Runner, parameters: Sequence[nn.Parameter], trains: bool) -> None:
    """Let parameters train or not, in every process."""
    for parameter in parameters:
        parameter.requires_grad_(trains)
        parameter.grad = None
    if parameters:
        distribute_anew(runner)


def distribute_anew(runner: Runner) -> None:
    """Wrap a distributed model again: DDP averages the gradients of what trained when it was made, and of that alone.

    Raises:
        UserError: if the wrapper is none of DDP's kind.
    """
    if not is_model_wrapper(runner.model):
        return
    if not isinstance(runner.model, DistributedDataParallel):
        raise UserError(f"FreezeBackbone: a model in {type(runner.model).__name__} cannot change what trains; use DDP")
    model = runner.model = runner.model.module
    gc.collect()  # the old wrapper's buckets, as large as the parameters, and its hooks on them
    runner.model = runner.wrap_model(runner.cfg.get("model_wrapper_cfg"), model)
    runner._maybe_compile("train_step")


def _module(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
