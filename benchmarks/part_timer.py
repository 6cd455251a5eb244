"""The time of each part of a model, forward and backward.

Forward: hooks before and after. Backward: an identity in autograd's graph around the inputs of a part and one around
its outputs, which note the time when a gradient passes. On a CPU autograd runs one node at a time, of those that are
ready the one that was created last. So all nodes between the two identities of a part run in one piece: its backward
begins when its outputs' gradients are complete and its turn has come, and ends when its inputs' gradients are done. Of
a part whose inputs need no gradient (the backbone) it ends where the next part begins, or with the pass. Parts that are
called several times add up. Time in no part is `rest`: losses and resizing.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

REST = "rest"


class PartTimer:
    """Seconds of the parts of `model` in one step; attach it once, and `reset` it before each step.

    Args:
        model: its attributes `names` are the parts; those that are missing or None are left out.
        names: of the parts.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        self.reset()
        for name in names:
            part = getattr(model, name, None)
            if part is not None:
                part.register_forward_pre_hook(self._before(name))
                part.register_forward_hook(self._after(name))

    def reset(self) -> None:
        """Clear the times of the last step."""
        self.forward: dict[str, float] = defaultdict(float)
        self.backward: dict[str, float] = defaultdict(float)
        self._started: dict[str, float] = {}
        self._open, self._last = REST, 0.0

    def time_forward(self, run: Callable[[], Any]) -> Any:
        """Run `run()`; its time outside the parts is `forward['rest']`."""
        start = time.perf_counter()
        result = run()
        self.forward[REST] = time.perf_counter() - start - sum(self.forward.values())
        return result

    def time_backward(self, run: Callable[[], object]) -> None:
        """Run `run()` as a backward pass."""
        self._open, self._last = REST, time.perf_counter()
        run()
        self._switch(REST)

    def _switch(self, name: str) -> None:
        """Record that from here on the backward pass is in part `name`."""
        now = time.perf_counter()
        self.backward[self._open] += now - self._last
        self._open, self._last = name, now

    def _before(self, name: str) -> Callable:
        def hook(_: nn.Module, args: tuple) -> Any:
            args = _marked(args, lambda: self._switch(REST))
            self._started[name] = time.perf_counter()
            return args

        return hook

    def _after(self, name: str) -> Callable:
        def hook(_: nn.Module, __: tuple, output: Any) -> Any:
            self.forward[name] += time.perf_counter() - self._started[name]
            return _marked(output, lambda: self._switch(name))

        return hook


class _Mark(torch.autograd.Function):
    """Identity of several tensors in one node; `note` is called when their gradients pass."""

    @staticmethod
    def forward(ctx: Any, note: Callable[[], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.note = note
        ctx.set_materialize_grads(False)  # an unused tensor must not get a gradient of zeros
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        ctx.note()
        return None, *grads


def _marked(tree: Any, note: Callable[[], None]) -> Any:
    """Return the same tensors, those that need a gradient behind one mark."""
    leaves, spec = tree_flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not places or not torch.is_grad_enabled():
        return tree
    for i, tensor in zip(places, _Mark.apply(note, *(leaves[i] for i in places)), strict=True):
        leaves[i] = tensor
    return tree_unflatten(leaves, spec)
