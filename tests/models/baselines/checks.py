"""What the tests of several methods check in the same way."""

import torch

from avsmamba.datasets import AVSBenchMS3
from tests.models.test_padding import clips


def totals_of_training(model, shapes, steps):
    """Return the sum of the losses at each of some AdamW steps on the first clip of SoundingShapes MS3, 64 x 64."""
    clip = AVSBenchMS3(data_root=str(shapes), split="train", pipeline=[{"type": "Resize", "size": 64}])[0]
    data = model.data_preprocessor({k: [v] for k, v in clip.items()}, True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(steps):
        total = sum(model(**data, mode="loss").values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    return totals


def assert_gradients_are_finite_in_bfloat16(model, labelled):
    """Assert that training under autocast gives finite gradients; `labelled` has the labelled frames of two clips.

    The frames are square: oneDNN 3.12's bfloat16 convolutions read beyond maps one pixel wide on CPUs with AMX.
    """
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(*clips([3, 3], labelled, (64, 64)), mode="loss")
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def assert_equal_and_finite(before, after):
    """Assert that dicts of tensors are equal to the bit and finite."""
    for a, b in zip(before, after, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.isfinite(a[name]).all() and torch.equal(a[name], b[name]), name
