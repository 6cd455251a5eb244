"""The operator on a GPU: buffers, the steps that a range needs, and the deterministic mode of the kernels of csrc/cuda.

The kernels add to zeroed buffers with atomic operations. In the deterministic mode each direction is one launch, the
sums over channel tiles (of ddt, dB and dC) and over the batch (of the parameters' gradients) get one copy for each
summand, and torch adds up the copies: every address then receives one addition a launch.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

from avsmamba.ops.common import contiguous_rows

CHANNELS, TILE = 32, 64  # kChannels and kTile of csrc/cuda/scan_common.cuh


def forward(kernels, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, deterministic) -> Tensor:
    """Run `kernels.forward`, which adds to y in the state's dtype; return y in x's dtype."""
    y = A.new_zeros(x.shape[0], out_length, x.shape[2])
    if y.numel():
        args = _arguments(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length)
        for part in _parts(args, deterministic):
            kernels.forward(*part, out_start, out_length, y)
    return y.to(x.dtype)


def backward(kernels, dy, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, deterministic):
    """Run `kernels.backward`, which adds to gradients in the state's dtype; return them in the inputs' dtypes."""
    inputs = (x, dt, B, C, A, D, dt_weight, dt_bias)
    grads = [A.new_zeros(t.shape) for t in inputs]
    if not dy.numel():
        return tuple(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True))
    dy, args = dy.contiguous(), _arguments(*inputs, order, out_start, out_length)
    batch, length, channels = x.shape
    rows, entries = (-(-channels // CHANNELS), batch) if deterministic else (1, 1)
    for k, part in enumerate(_parts(args, deterministic)):
        directions = len(part[8])
        borders = A.new_empty(batch, directions, -(-length // TILE), A.shape[2], channels)
        # All but dx have a leading axis of copies: ddt, dB and dC, then the parameters' gradients.
        if not deterministic:
            kernels.backward(dy, *part, out_start, out_length, borders, grads[0], *(g[None] for g in grads[1:]))
            continue
        whole = [*(g[:, :, k : k + 1] for g in grads[1:4]), *(g[k : k + 1] for g in grads[4:])]
        copies = [A.new_zeros(rows if i < 3 else entries, *g.shape) for i, g in enumerate(whole)]
        kernels.backward(dy, *part, out_start, out_length, borders, grads[0], *copies)
        for g, c in zip(whole, copies, strict=True):
            g.copy_(c.sum(0))
    return tuple(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True))


def _arguments(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length) -> SimpleNamespace:
    """Return what the kernels read: rows of stride 1, contiguous parameters, and the steps of each direction."""
    rows = contiguous_rows(x, dt, B, C)
    steps = _steps(order, out_start, out_length)
    return SimpleNamespace(rows=rows, parameters=[t.contiguous() for t in (A, D, dt_weight, dt_bias, order, steps)])


def _parts(args: SimpleNamespace, deterministic: bool):
    """Yield the arguments of each launch: all directions at once, or one after the other."""
    (x, *rows), parameters = args.rows, args.parameters
    if not deterministic:
        yield [x, *rows, *parameters]
        return
    for k in range(len(parameters[0])):
        yield [x, *(t[:, :, k : k + 1] for t in rows), *(t[k : k + 1] for t in parameters)]


def _steps(order: Tensor, out_start: int, out_length: int) -> Tensor:
    """Return the steps of each direction up to its last requested token; later ones change no output."""
    length = order.shape[1]
    if out_length == length:
        return order.new_full((len(order),), length)
    wanted = (order >= out_start) & (order < out_start + out_length)
    return (wanted * torch.arange(1, length + 1, device=order.device)).amax(1).int()
