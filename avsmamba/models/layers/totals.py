"""Numbers by which sums over a batch are divided, in training by one process or several."""

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor


def batch_total(count: float | Tensor, like: Tensor, least: float = 1.0) -> float | Tensor:
    """Return a count of a batch to divide a sum over the batch by.

    In training by several processes: the count of all processes' parts of the batch, divided by the number of
    processes. DDP averages gradients over the processes, so that of a sum divided by this number is the gradient that
    one process has on the whole batch, also if the parts differ in their labels. Every process has to call it the same
    number of times.

    Args:
        count: a number, or a tensor of numbers.
        like: a tensor on the device of the loss and, if it is of float32 or more, of its dtype.
        least: smallest count of the whole batch; a sum of weights may be below 1.
    """
    processes = get_world_size()
    if processes == 1:
        return count.clamp(min=least) if isinstance(count, Tensor) else max(least, count)
    dtype = torch.promote_types(like.dtype, torch.float32)
    total = torch.as_tensor(count, dtype=dtype, device=like.device).detach().clone()
    all_reduce(total, "mean")
    return total.clamp(min=least / processes)


def at_least_float32(x: Tensor) -> Tensor:
    """Cast bfloat16, float16 and integers to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
