"""Floating point operations of the scan, as `torch.utils.flop_counter.FlopCounterMode` counts them.

A multiply-add counts two, a single addition or product one; exp, softplus, sigmoid, the bias of delta and dtype
conversions count zero. All directions read all tokens; only tokens of the requested range are multiplied with C and D.
The backward pass recomputes delta and the states, and that is counted.
"""

import torch
from torch.utils.flop_counter import register_flop_formula

import avsmamba.ops.selective_scan  # noqa: F401  (it defines the operators)


def forward_flops(batch: int, length: int, channels: int, states: int, rank: int, directions: int, wanted: int) -> int:
    """Count the operations of one forward scan with `wanted` outputs for `length` tokens."""
    # delta, delta x; for each state delta A, (delta x) B, and decay h plus that. Then C h for each state, and D x.
    for_each_token = 2 * rank + 1 + 4 * states
    for_each_wanted = 2 * states + 2
    return batch * directions * channels * (length * for_each_token + wanted * for_each_wanted)


def backward_flops(batch: int, length: int, channels: int, states: int, rank: int, directions: int, wanted: int) -> int:
    """Count the operations of one backward scan, including the recomputed states."""
    again = 2 * rank + 1 + 4 * states
    # For each state: dB, g B, decay g, that times h, dA, and d delta. Then d delta and dx from the input, the slope
    # of softplus and the bias's gradient; d dt and d dt_weight from delta's.
    for_each_token = again + 10 * states + 6 + 4 * rank
    for_each_wanted = 4 * states + 4  # g and dC for each state; dx and dD through D
    return batch * directions * channels * (length * for_each_token + wanted * for_each_wanted)


def _sizes(x, dt, B, out_length) -> tuple[int, int, int, int, int, int, int]:
    (batch, length, channels), directions = x, dt[2]
    return batch, length, channels, B[3], dt[3], directions, out_length


@register_flop_formula(torch.ops.avsmamba.multi_directional_scan)
def _forward(
    x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, keep_states=False, *, out_shape=None
) -> int:
    return forward_flops(*_sizes(x, dt, B, out_length))


@register_flop_formula(torch.ops.avsmamba.multi_directional_scan_backward)
def _backward(
    dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, *, out_shape=None
) -> int:
    return backward_flops(*_sizes(x, dt, B, out_length))
