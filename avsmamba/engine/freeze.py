"""A hook that freezes a part of the model at the beginning of a training."""

import gc
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avsmamba.engine.distributed import unwrapped
from avsmamba.engine.sharding import FullyShard
from avsmamba.registry import HOOKS
from avsmamba.utils import UserError


@HOOKS.register_module()
class FreezeBackbone(Hook):
    """Freeze a part of the model for the first epochs or iterations; after them it trains like the rest.

    Frozen parameters have no gradients: neither the optimizer's step nor its weight decay changes them, and activations
    are not kept for them. The part stays in training mode: drop path is active and the running statistics of batch
    normalisations are updated, as in the training of AVS-Mamba's authors (`norm_eval: true` of a backbone stops the
    latter). Parameters that are frozen by the config (`frozen: true`) remain so. The end of freezing depends on the
    epoch or iteration alone, also in a resumed run.

    Source: the authors freeze the visual backbone for 20 epochs in S4 and MS3, never in AVSS; AVSegFormer's for 5 in
    S4 and 10 in MS3.

    Args:
        epochs: number of epochs, in training by epoch.
        iters: number of iterations, instead of epochs.
        part: attribute of the model: `backbone`, `audio_encoder`, or a dotted path into one.

    Raises:
        UserError: unless exactly one of `epochs` and `iters` is set, to 0 or more; in training, if the model has no
            such part, `epochs` is set in training by iteration, or the model is distributed by another wrapper than
            DDP or FullyShard.
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
            raise UserError("FreezeBackbone: epochs applies to training by epoch; set iters instead")
        model = unwrapped(runner.model)
        if self.part not in {name for name, _ in model.named_modules() if name}:
            children = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"FreezeBackbone: the model has no part {self.part!r}; it has {children}")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        early = runner.iter < self.iters if self.iters is not None else runner.epoch < (self.epochs or 0)
        if early and self.frozen is None:
            part = unwrapped(runner.model).get_submodule(self.part)
            self.frozen = [p for p in part.parameters() if p.requires_grad]
            switch(runner, self.frozen, False)
            until = f"{self.epochs} epochs" if self.iters is None else f"{self.iters} iterations"
            runner.logger.info(f"{self.part}: {size(self.frozen)} do not train for the first {until}")
        elif self.frozen is not None and not early:
            switch(runner, self.frozen, True)
            where = f"epoch {runner.epoch + 1}" if self.iters is None else f"iteration {runner.iter + 1}"
            runner.logger.info(f"{self.part}: {size(self.frozen)} train from {where} on")
            self.frozen = None


def size(parameters: Sequence[nn.Parameter]) -> str:
    """Format the number of elements of parameters."""
    return f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters"


def switch(runner: Runner, parameters: Sequence[nn.Parameter], trains: bool) -> None:
    """Freeze parameters or let them train, in every process."""
    for parameter in parameters:
        parameter.requires_grad_(trains)
        parameter.grad = None
    if parameters:
        distribute_anew(runner)


def distribute_anew(runner: Runner) -> None:
    """Wrap a distributed model again: DDP averages gradients only of parameters that trained when it was created.

    FSDP2 looks at each step which parameters train.

    Raises:
        UserError: if the wrapper is neither DDP nor FSDP2.
    """
    if not is_model_wrapper(runner.model) or isinstance(runner.model, FullyShard):
        return
    if not isinstance(runner.model, DistributedDataParallel):
        raise UserError(
            f"FreezeBackbone: a model in {type(runner.model).__name__} cannot change what trains; use DDP or FullyShard"
        )
    model = runner.model = runner.model.module
    gc.collect()  # frees the old wrapper's buckets, as large as the parameters, and its hooks
    runner.model = runner.wrap_model(runner.cfg.get("model_wrapper_cfg"), model)
    runner._maybe_compile("train_step")
