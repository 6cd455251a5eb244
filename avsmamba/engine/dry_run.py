"""Run a config's training step with fake tensors on `cuda`: no GPU, memory or arithmetic is needed.

Under `torch._subclasses.FakeTensorMode` tensors have shapes, dtypes and devices, but no values. A tensor on the wrong
device raises, and so does an operation that reads a value from the device, which makes a real GPU wait for the CPU.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import data_sets
from avsmamba.engine.optim import build_optim_wrapper
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError

CUDA = torch.device("cuda", 0)


class DryRun(NamedTuple):
    """Result of a dry run.

    Attributes:
        losses: names of the losses.
        peak_bytes: estimated peak memory of a training step on the GPU: parameters, gradients, state of the optimizer
            and activations, without the workspace of kernels and unused memory of the allocator.
    """

    losses: list[str]
    peak_bytes: int


def dry_run(cfg: Config, amp: bool = False, optimizer: bool = True) -> DryRun:
    """Run forward, losses, backward and the optimizer's step of a config's batch with fake tensors on `cuda`.

    Args:
        cfg: a config with `model`, `train_dataloader` and `optim_wrapper`. Files of pretrained weights are not read.
        amp: under autocast to bfloat16.
        optimizer: step the optimizer, so that its state is part of the estimate.

    Raises:
        UserError: if the config trains nothing, or its size is not one number.
        RuntimeError: from torch, for a wrong device or an operation that depends on values.
    """
    batch, frames, size = batch_shape(cfg)
    flags = torch.ones(frames, dtype=torch.bool)  # not fake: they are read on the CPU
    model = build_model(cfg.model, device="meta").train()  # not fake: timm reads values
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device=CUDA)
        model.data_preprocessor.to(CUDA)
        optim = build_optim_wrapper(model, cfg.optim_wrapper).optimizer if optimizer else None
        with PeakMemory() as memory:
            memory.count([*model.parameters(), *model.buffers()])
            data = {
                "frames": [torch.zeros(frames, 3, size, size, dtype=torch.uint8) for _ in range(batch)],
                "log_mel": [torch.zeros(frames, 1, 96, 64) for _ in range(batch)],
                "data_samples": [sample(flags, size) for _ in range(batch)],
            }
            data = model.data_preprocessor(data, True)
            with autocast(amp):
                losses = model(**data, mode="loss")
            names, total = list(losses), sum(losses.values(), torch.zeros((), device=CUDA))
            del losses, data
            nodes = [total.grad_fn]
            del total
            run_backward(nodes)
            if optim is not None:
                optim.step()
    return DryRun(names, memory.peak)


@contextmanager
def autocast(enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16 on `cuda`; `torch.autocast` itself does nothing without a GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


@torch.no_grad()
def run_backward(root: list[Any]) -> None:
    """Run the backward pass of a scalar node by node, the most recent first, as autograd does.

    torch's own engine needs a GPU driver for its streams. References to a node are dropped after it ran, which frees
    its saved tensors.

    Args:
        root: list with the `grad_fn` of the scalar, which is removed from it.
    """
    node = root.pop()
    waiting: Counter[Any] = Counter()
    seen, stack = {node}, [node]
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                waiting[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    del seen
    arrived: dict[Any, list[Tensor | None]] = {node: [torch.ones((), device=CUDA)]}
    ready = {node: 0}
    following = None
    while ready:
        node = max(ready, key=lambda n: ready[n])
        del ready[node]
        grads = arrived.pop(node)
        if hasattr(node, "variable"):
            leaf = node.variable
            leaf.grad = grads[0] if leaf.grad is None else leaf.grad + grads[0]
            continue
        run = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
        results = run(*grads)
        results = results if isinstance(results, tuple) else (results,)
        for (following, place), grad in zip(node.next_functions, results, strict=False):
            if following is None:
                continue
            slots = arrived.setdefault(following, [None] * len(following._input_metadata))
            if grad is not None:
                wanted = following._input_metadata[place]  # a gradient may be broadcast, or of a wider dtype
                grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)
                slots[place] = grad if slots[place] is None else slots[place] + grad
            waiting[following] -= 1
            if not waiting[following]:
                del waiting[following]
                ready[following] = following._sequence_nr()
        del node, grads, results, run
        following = grad = wanted = None
        slots = []


class PeakMemory(TorchDispatchMode):
    """Count the bytes of all living storages on `CUDA`; `peak` is the greatest sum.

    torch's own MemTracker does the same with more detail, but fails for models with frozen parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, int] = {}
        self.now = self.peak = 0

    def count(self, values: Any) -> None:
        """Count the tensors in a nested structure that have not been counted."""
        for tensor in tree_leaves(values):
            if not isinstance(tensor, Tensor) or tensor.device != CUDA:
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self.living:
                self.living[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.now -= self.living.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its results."""
        result = func(*args, **(kwargs or {}))
        self.count(result)
        return result


def sample(flags: torch.Tensor, size: int) -> AVSDataSample:
    """Return the labels of a clip with all frames labelled."""
    labels = AVSDataSample(metainfo={"img_shape": (size, size), "ori_shape": (size, size)})
    labels.gt_masks = torch.zeros(len(flags), size, size, dtype=torch.uint8)
    labels.gt_temporal_mask_flag = labels.vid_temporal_mask_flag = flags
    return labels


def batch_shape(cfg: Config) -> tuple[int, int, int]:
    """Return clips in a training batch, frames in a clip, and height and width in pixels.

    Raises:
        UserError: if the config has no training data, or its frames are not resized to a square.
    """
    loader = cfg.get("train_dataloader")
    if not loader:
        raise UserError(f"{cfg.filename}: has no train_dataloader: nothing to train")
    dataset = next(iter(data_sets(loader.dataset)))
    sizes = [t["size"] for t in dataset.get("pipeline") or [] if "size" in t]
    if not sizes or not isinstance(sizes[-1], int):
        raise UserError(f"{cfg.filename}: train_dataloader.dataset.pipeline: expected a last transform with one size")
    return loader.batch_size, dataset.get("num_frames", 5), sizes[-1]
