"""Mixed precision that also works on the CPU, and the optimizer of a config without a runner."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.optim import build_optim_wrapper as build
from torch import nn

from avsmamba.engine.log import is_wanted
from avsmamba.limits import AT_LEAST_1, limits
from avsmamba.registry import OPTIM_WRAPPERS
from avsmamba.utils import UserError


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """bfloat16 autocast on CPU and GPU; weights and optimizer state stay float32, no loss scaler is needed.

    Args:
        optimizer: the torch optimizer.
        dtype: 'bfloat16'; float16 needs a loss scaler, which mmengine's AmpOptimWrapper has (GPU only).
        accumulative_counts: iterations whose gradients are accumulated for one step.
        clip_grad: arguments of `clip_grad_norm_`, or with `type: value` of `clip_grad_value_`.

    Raises:
        ValueError: for another dtype.
    """

    @limits(accumulative_counts=AT_LEAST_1)
    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        dtype: str = "bfloat16",
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | None = None,
    ):
        super().__init__(optimizer=optimizer, accumulative_counts=accumulative_counts, clip_grad=clip_grad)
        if dtype != "bfloat16":
            raise ValueError(f"dtype: expected 'bfloat16', got {dtype!r}; for float16 use AmpOptimWrapper on a GPU")
        self.dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(get_device(), self.dtype):
            yield


def use_amp(cfg: Config) -> None:
    """Change a config's `optim_wrapper` to mixed precision: bfloat16, or float16 with a scaler on GPUs without it.

    Raises:
        UserError: if the config's own wrapper is of another type.
    """
    wrapper = cfg.get("optim_wrapper")
    kind = (wrapper or {}).get("type", "OptimWrapper")
    if wrapper is None or kind not in ("OptimWrapper", "AmpOptimWrapper", "AutocastOptimWrapper"):
        raise UserError(f"--amp: optim_wrapper.type must be OptimWrapper, got {kind if wrapper else wrapper!r}")
    if kind != "OptimWrapper":
        return
    scaled = amp_dtype() == torch.float16
    wrapper["type"] = "AmpOptimWrapper" if scaled else "AutocastOptimWrapper"
    wrapper["dtype"] = "float16" if scaled else "bfloat16"


def amp_dtype() -> torch.dtype:
    """Return the dtype of `--amp`: bfloat16, or float16 on GPUs without it."""
    return torch.float16 if torch.cuda.is_available() and not torch.cuda.is_bf16_supported() else torch.bfloat16


def build_optim_wrapper(model: nn.Module, cfg: Any) -> OptimWrapper:
    """Build the optimizer wrapper of a config without a runner, and without mmengine's line on each parameter."""
    for handler in MMLogger.get_current_instance().handlers:
        handler.addFilter(is_wanted)
    return build(model, cfg)
