"""Neck and decoder of AVSBiGen and ECMVAE against the description, frame by frame."""

import pytest
import torch
import torch.nn.functional as F

from avsmamba.models.layers.refinenet import BasicNeckProjection, RefineNetDecoder
from tests.models.conftest import assert_every_parameter_learns


def random_statistics(module):
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.double().eval()


def convolved(x, conv, norm, relu):
    """Convolve `(C, h, w)` as a sum over shifted maps, then normalise by the running statistics."""
    k = conv.kernel_size[0] // 2
    padded = F.pad(x, (k, k, k, k))
    h, w = x.shape[1:]
    y = sum(
        torch.einsum("oc,chw->ohw", conv.weight[:, :, i, j], padded[:, i : i + h, j : j + w])
        for i in range(2 * k + 1)
        for j in range(2 * k + 1)
    )
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    y = (y - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    return y.clamp(min=0) if relu else y


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_neck_equals_its_description(activation):
    neck = random_statistics(BasicNeckProjection((3, 4, 5, 6), 7, 8, activation))
    maps = [torch.randn(6, 3 + i, 16 >> i, 8 >> i, dtype=torch.float64) for i in range(4)]
    audio = torch.randn(2, 3, 7, dtype=torch.float64)
    projected, sound = neck(maps, audio)
    assert torch.equal(sound, audio)
    for part, x, y in zip(neck.visual, maps, projected, strict=True):
        assert [layer[0].kernel_size for layer in part] == [(1, 1), (3, 3), (3, 3)]
        expected = x[4]
        for conv, norm, _ in part:
            expected = convolved(expected, conv, norm, activation == "relu")
        torch.testing.assert_close(y[1, 1], expected.permute(1, 2, 0))


def test_normalised_audio():
    neck = BasicNeckProjection((3, 4, 5, 6), 7, 8, audio_norm="BN")
    sound = neck([torch.randn(6, 3 + i, 16 >> i, 8 >> i) for i in range(4)], 9 + torch.randn(2, 3, 7))[1]
    torch.testing.assert_close(sound.mean((0, 1)), torch.zeros(7), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="activation: expected one of"):
        BasicNeckProjection((3, 4, 5, 6), 7, 8, activation="gelu")


def unit(residual, x):
    y = x
    for conv, norm, _ in residual.layers:
        y = convolved(y, conv, norm, True)
    return x + y


def test_decoder_equals_its_description(maps):
    decoder = random_statistics(RefineNetDecoder(8))
    found = decoder(maps)
    assert found.shape == (2, 3, 32, 16, 8)
    for b, t in ((0, 0), (1, 2)):
        y = 0
        for block, x in zip(decoder.blocks, reversed(maps), strict=True):
            y = unit(block.unit, unit(block.lateral, x[b, t].permute(2, 0, 1)) + y)
            y = y.repeat_interleave(2, 1).repeat_interleave(2, 2)
        torch.testing.assert_close(found[b, t], y.permute(1, 2, 0))


def test_every_parameter_learns(maps):
    decoder = RefineNetDecoder(8).double()
    assert_every_parameter_learns(decoder, decoder(maps))
    neck = BasicNeckProjection((3, 4, 5, 6), 7, 8).double()
    inputs = [torch.randn(6, 3 + i, 16 >> i, 8 >> i, dtype=torch.float64) for i in range(4)]
    assert_every_parameter_learns(neck, neck(inputs, torch.zeros(2, 3, 7, dtype=torch.float64))[0])
