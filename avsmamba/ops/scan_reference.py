"""The operator in plain torch: slow, obvious, any floating dtype, differentiable by autograd.

It is the specification for the tests of the kernels (in float64), and the `torch` backend.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_scan(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    order: Tensor,
    out: tuple[int, int] | None = None,
) -> Tensor:
    """Compute Eq. 3 and 4 token by token, for each direction; shapes as in `multi_directional_scan`."""
    batch, length, channels = x.shape
    y = x.new_zeros(batch, length, channels)
    for k, steps in enumerate(order.long()):
        delta = F.softplus(dt[:, :, k] @ dt_weight[k].T + dt_bias[k])
        h = x.new_zeros(batch, channels, A.shape[-1])
        outputs = []
        for i in steps.tolist():
            decay = torch.exp(delta[:, i, :, None] * A[k])
            h = decay * h + (delta[:, i] * x[:, i])[..., None] * B[:, i, k, None, :]
            outputs.append((h * C[:, i, k, None, :]).sum(-1) + D[k] * x[:, i])
        if outputs:
            y = y.index_add(1, steps, torch.stack(outputs, dim=1))
    return y if out is None else y[:, out[0] : out[0] + out[1]]


def reference_scan_backward(dy, x, dt, B, C, A, D, dt_weight, dt_bias, order, out) -> tuple[Tensor, ...]:
    """Compute the gradients of `reference_scan` with respect to its eight tensors by written-out formulas.

    With g_t the gradient of the state after step t: g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1}.
    """
    grads = dx, d_dt, dB, dC, dA, dD, d_weight, d_bias = tuple(
        torch.zeros_like(t) for t in (x, dt, B, C, A, D, dt_weight, dt_bias)
    )
    dy = F.pad(dy, (0, 0, out[0], x.shape[1] - sum(out)))
    for k, steps in enumerate(order.tolist()):
        raw = dt[:, :, k] @ dt_weight[k].T + dt_bias[k]
        delta = F.softplus(raw)
        d_delta = torch.zeros_like(delta)
        states = [x.new_zeros(*x.shape[::2], A.shape[-1])]
        for i in steps:
            decay = torch.exp(delta[:, i, :, None] * A[k])
            states.append(decay * states[-1] + (delta[:, i] * x[:, i])[..., None] * B[:, i, k, None, :])
        g = torch.zeros_like(states[0])
        for t in range(len(steps) - 1, -1, -1):
            i = steps[t]
            g = g + dy[:, i, :, None] * C[:, i, k, None, :]
            dC[:, i, k] += (dy[:, i, :, None] * states[t + 1]).sum(1)
            dB[:, i, k] += (g * (delta[:, i] * x[:, i])[..., None]).sum(1)
            from_input = (g * B[:, i, k, None, :]).sum(-1)
            g = torch.exp(delta[:, i, :, None] * A[k]) * g
            through_decay = g * states[t]
            dA[k] += (through_decay * delta[:, i, :, None]).sum(0)
            d_delta[:, i] = (through_decay * A[k]).sum(-1) + from_input * x[:, i]
            dx[:, i] += from_input * delta[:, i] + D[k] * dy[:, i]
        dD[k] = (dy * x).sum((0, 1))
        d_raw = d_delta * torch.sigmoid(raw)
        d_dt[:, :, k] = d_raw @ dt_weight[k]
        d_weight[k] = torch.einsum("ble,blr->er", d_raw, dt[:, :, k])
        d_bias[k] = d_raw.sum((0, 1))
    return grads
