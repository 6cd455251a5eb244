"""The operator in plain torch: slow, obvious, any floating dtype, differentiable by autograd.

It is the specification that the kernels are tested against (in float64), and the `torch` backend.
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
    """Eq. 3 and 4 token by token, for each direction; shapes as in `multi_directional_scan`."""
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
