"""Gradient checkpointing: a block's activations are recomputed in the backward pass instead of being kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def maybe_checkpoint(block: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """Call `block(*inputs)`; with `recompute`, and where gradients are recorded, keep only its inputs for them."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
