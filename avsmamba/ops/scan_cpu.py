"""The operator on the CPU: buffers and contiguous arguments for the kernels of csrc/cpu."""

import functools

import torch
from torch import Tensor

from avsmamba.ops.common import HAS_CPU_KERNEL, contiguous_rows


def states_shape(x: Tensor, B: Tensor, kept: bool) -> tuple[int, ...]:
    """Return the shape of the states before each tile, `(b, K, tiles, N, E)`, or `(0,)` where none are kept."""
    if not (kept and HAS_CPU_KERNEL and x.device.type == "cpu"):
        return (0,)
    tile = _tile()
    return (x.shape[0], B.shape[2], (x.shape[1] + tile - 1) // tile, B.shape[3], x.shape[2])


@functools.cache
def _tile() -> int:
    return torch.ops.avsmamba_cpu.tile()


def forward(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, keep_states=False):
    """Return the outputs in x's dtype, and with `keep_states` the states that `backward` starts from."""
    y = torch.empty(x.shape[0], out_length, x.shape[2], dtype=A.dtype)
    states = torch.empty(states_shape(x, B, keep_states), dtype=A.dtype)
    parameters = [t.contiguous() for t in (A, D, dt_weight, dt_bias, order)]
    torch.ops.avsmamba_cpu.forward(*contiguous_rows(x, dt, B, C), *parameters, out_start, out_length, y, states)
    return y.to(x.dtype), states


def backward(dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length):
    """Return the gradients of the eight tensors, each in its dtype; empty `states` are computed first."""
    inputs = (x, dt, B, C, A, D, dt_weight, dt_bias)
    if states.numel() == 0:  # gradients were not expected when the forward ran
        states = forward(*inputs, order, out_start, out_length, True)[1]
    grads = tuple(torch.empty(t.shape, dtype=A.dtype) for t in inputs)
    parameters = [t.contiguous() for t in (A, D, dt_weight, dt_bias, order)]
    rows = contiguous_rows(x, dt, B, C)
    torch.ops.avsmamba_cpu.backward(dy.contiguous(), states, *rows, *parameters, out_start, out_length, *grads)
    return grads if x.dtype == A.dtype else tuple(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True))
