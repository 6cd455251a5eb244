"""Inputs of a scan."""

import torch

NAMES = ("x", "dt", "B", "C", "A", "D", "dt_weight", "dt_bias")


def scan_inputs(b=1, length=5, channels=4, directions=2, states=3, rank=2, dtype=torch.float32, seed=0):
    """Return the eight tensors and an order; dt, B and C are slices of one projection, as in the model."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    x = normal(b, length, channels)
    dt, B, C = normal(b, length, directions, rank + 2 * states).to(dtype).split([rank, states, states], dim=-1)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [
        -torch.rand(directions, channels, states, generator=g, dtype=torch.float64) * 4 - 0.05,
        normal(directions, channels),
        normal(directions, channels, rank) * 0.4,
        normal(directions, channels) - 1.5,
    ]
    order = torch.stack([torch.randperm(length, generator=g) for _ in range(directions)]).int()
    return [x.to(dtype), dt, B, C, *(p.to(state) for p in parameters)], order


def relative_error(got, expected, at_least=1e-12):
    """Return the largest deviation over the largest expected value, or over `at_least` where that is more."""
    expected = expected.detach().double()
    return float((got.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=at_least))
