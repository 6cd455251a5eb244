"""FSDP2: parameters, gradients and the optimizer's state are divided among the processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce_params
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from avsmamba.utils import UserError


@MODEL_WRAPPERS.register_module()
class FullyShard(nn.Module):
    """Model whose parameters are divided among the processes by torch's `fully_shard` (FSDP2).

    In a config: `model_wrapper_cfg: {type: FullyShard}`; with one process it has no effect. All processes start from
    the first one's weights.

    Args:
        module: the model.
        classes: names of the classes of modules whose parameters are gathered on their own, when such a module runs,
            and freed after it. The others are gathered together for the whole forward and backward pass.
        reshard_after_forward: free the gathered parameters of such modules after their forward pass and gather them
            again for the backward pass; false: keep them, which needs more memory and less communication.

    Raises:
        ValueError: if the model has no module of one of the classes.
    """

    def __init__(self, module: nn.Module, classes: Sequence[str] = (), reshard_after_forward: bool = True):
        super().__init__()
        found = {type(m).__name__ for m in module.modules()}
        if not found.issuperset(classes):
            missing = ", ".join(sorted({*classes} - found))
            raise ValueError(f"classes: the model has no {missing}; it has {', '.join(sorted(found))}")
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor.data, 0)
        # torch gives a sharded module a class of its own, so all are listed before.
        parts = [m for m in module.modules() if type(m).__name__ in classes and m is not module]
        for part in reversed(parts):
            fully_shard(part, reshard_after_forward=reshard_after_forward)
        self.module = fully_shard(module)
        for part in module.modules():
            part.register_load_state_dict_pre_hook(_distribute_weights)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Run a step of the model; accumulated gradients are reduced at each iteration, so that they stay divided."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> list[Any]:
        """Predict, as the model does."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> list[Any]:
        """Predict, as the model does."""
        return self.module.test_step(data)


def check_sharding(cfg: Config) -> None:
    """Raise a UserError if a config with `FullyShard` asks for what does not work with it."""
    if (cfg.get("model_wrapper_cfg") or {}).get("type") != "FullyShard":
        return
    if (cfg.get("optim_wrapper") or {}).get("type") == "AmpOptimWrapper":
        raise UserError(
            "model_wrapper_cfg: FullyShard does not go with the loss scaler of AmpOptimWrapper, which each process "
            "would adapt alone; use AutocastOptimWrapper (--amp on a GPU with bfloat16)"
        )
    if any("EMAHook" in str(hook.get("type")) for hook in cfg.get("custom_hooks") or ()):
        raise UserError("model_wrapper_cfg: FullyShard does not go with EMAHook, which copies the whole model; use DDP")


def is_sharded(model: nn.Module) -> bool:
    """Return whether some of a model's parameters are divided among processes."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def gathered(value: Any) -> Any:
    """Return nested dicts and lists with whole tensors on the CPU; every process has to call it."""
    value = apply_to(value, lambda x: isinstance(x, DTensor), lambda x: x.full_tensor())
    return apply_to(value, lambda x: isinstance(x, Tensor), lambda x: x.detach().cpu())


def distributed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a process's part of a whole tensor, if the parameter of its shape is divided; every process has it all."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    whole = value.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """List the parameters of an optimizer in the order of their numbers in its state dict."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def distributed_states(states: Mapping[Any, dict[str, Any]], optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """Return an optimizer's states by number, the whole tensors in them divided as the parameters are."""
    parameters = parameters_of(optimizer)
    return {
        int(number): {
            k: distributed_like(v, parameters[int(number)]) if isinstance(v, Tensor) else v for k, v in state.items()
        }
        for number, state in states.items()
        if int(number) < len(parameters)
    }


def average_buffers(model: nn.Module) -> None:
    """Average running statistics over the processes: a checkpoint has those of all, and training goes on with them."""
    all_reduce_params(model.buffers(), op="mean")


def _distribute_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None and isinstance(state.get(prefix + name), Tensor):
            state[prefix + name] = distributed_like(state[prefix + name], parameter)
