"""Small inputs for the model's parts; H and W differ, so that a swapped axis cannot pass."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def maps():
    """Return four maps of a 64 x 32 pixel clip: B = 2, T = 3, C = 8."""
    return [torch.randn(2, 3, 64 // s, 32 // s, 8, dtype=torch.float64) for s in (4, 8, 16, 32)]


@pytest.fixture
def audio():
    return torch.randn(2, 3, 8, dtype=torch.float64)


def assert_every_parameter_learns(module, output):
    """Assert that each parameter gets a gradient that is finite and not all zero."""
    leaves = output if isinstance(output, (list, tuple)) else [output]
    sum((y * torch.randn_like(y)).sum() for y in leaves).backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name
