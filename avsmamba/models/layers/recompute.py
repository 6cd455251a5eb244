"""Gradient checkpointing: a block's activations are made again in the backward pass instead of being kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run_block(block: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """`block(*inputs)`; with `recompute`, and where gradients are recorded, only its inputs are kept for them."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
