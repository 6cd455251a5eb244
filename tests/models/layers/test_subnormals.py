"""Subnormal numbers in a block: what torch's own operations meet after our kernels."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avsmamba.models.layers import V2AFusionBlock
from avsmamba.ops import available_backends

pytestmark = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ kernel was not built")
FRAMES, SIDE = 5, 24


class Smallest(TorchDispatchMode):
    """How many values of (0, 1e-36) torch's operations give; a weight of 0.01 would make some of them subnormal."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(t, torch.Tensor) and t.is_floating_point():
                size = t.detach().double().abs()
                self.counts[str(function)] = self.counts.get(str(function), 0) + int(
                    ((size > 0) & (size < 1e-36)).sum()
                )
        return result


def test_no_operation_of_torch_after_the_kernels_meets_a_subnormal():
    torch.manual_seed(0)
    blocks = [V2AFusionBlock(64, level) for level in ("temporal", "frame", "temporal")]
    for block in blocks:
        torch.nn.init.uniform_(block.ssm.dt_bias, -2, 1)  # steps of a trained block: gradients die out faster
    visual, audio = torch.randn(1, FRAMES, SIDE, SIDE, 64, requires_grad=True), torch.randn(1, FRAMES, 64)
    for block in blocks:
        audio = block(visual, audio)
    with Smallest() as smallest:
        audio.square().mean().backward()
    assert "avsmamba.multi_directional_scan_backward.default" in smallest.counts and len(smallest.counts) > 9
    assert not any(smallest.counts.values()), smallest.counts
