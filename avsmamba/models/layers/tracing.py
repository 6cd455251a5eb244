"""Whether a shortcut for several layers may be used, and derivatives for where it may not."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode


def watched(*tensors: Tensor) -> bool:
    """Return whether operations are traced, transformed or counted, rather than only run.

    True in torch.compile, torch.export, ONNX export, torch.jit.trace, under torch.func, forward-mode derivatives and
    dispatch modes (FakeTensorMode, FlopCounterMode), and for tensors on `meta` or of a subclass.
    """
    return (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.onnx.is_in_onnx_export()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
        or any(type(t) not in (Tensor, nn.Parameter) or t.device.type == "meta" for t in tensors)
    )


def recorded_gradients(
    run: Callable[..., Tensor], inputs: Sequence[Any], dy: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Compute gradients that can be differentiated again, by torch's own layers.

    Args:
        run: the layers one by one.
        inputs: its arguments.
        dy: gradient of its output.
        needed: whether each input's gradient is requested; the others' is None.
    """
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
    found = iter(torch.autograd.grad(run(*inputs), wanted, dy, create_graph=True))
    return tuple(next(found) if need else None for need in needed)
