"""Noise of a clip's frames, and the mean of predictions."""

import numpy as np
import pytest
import torch

from avsmamba.models.noise import clip_noise, mean_prediction


def test_noise_depends_on_seed_name_and_position_alone():
    whole = clip_noise(3, ["a", "b", None], [2, 4, 1], (2, 3, 5))
    assert whole.shape == (7, 2, 3, 5) and whole.dtype == torch.float32
    state = torch.random.get_rng_state()
    assert torch.equal(clip_noise(3, ["b"], [4], (2, 3, 5)), whole[2:6])
    assert torch.equal(clip_noise(3, ["x", "b"], [1, 3], (2, 3, 5))[1:], whole[2:5])
    assert torch.equal(clip_noise(3, ["b"], [4], (1, 3, 5)), whole[2:6, :1])
    assert torch.equal(torch.random.get_rng_state(), state)
    # No two frames share their noise, nor two clips or seeds.
    rows = torch.cat([whole, clip_noise(4, ["b"], [4], (2, 3, 5))]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == 11


def test_noise_is_standard_normal():
    noise = clip_noise(0, [str(i) for i in range(400)], [5] * 400, (16,))
    assert noise.mean().abs() < 0.02 and abs(noise.std() - 1) < 0.02
    # Frames and clips are independent: sums over both have the variance of as many independent numbers.
    sums = noise.view(400, 5, 16)
    assert sums.sum(1).std() == pytest.approx(np.sqrt(5), rel=0.05)
    assert sums.sum(0).std() == pytest.approx(np.sqrt(400), rel=0.2)


@pytest.mark.parametrize("classes", [1, 4])
def test_the_mean_is_that_of_probabilities(classes):
    logits = [3 * torch.randn(2, 3, classes, 4, 2) for _ in range(5)]
    mean = mean_prediction(logits)

    def probability(x):
        return x.sigmoid() if classes == 1 else x.softmax(2)

    expected = torch.stack([probability(x.double()) for x in logits]).mean(0)
    torch.testing.assert_close(probability(mean.double()), expected, rtol=1e-5, atol=1e-6)
    if classes == 1:
        torch.testing.assert_close(mean_prediction(logits[:1]), logits[0], rtol=1e-5, atol=1e-5)
        assert torch.isfinite(mean_prediction([200 * x for x in logits])).all()
        assert not mean_prediction([torch.zeros(1, 1, 2, 2)] * 3).any()
