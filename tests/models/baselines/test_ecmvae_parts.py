"""ECMVAE's latents and pyramid against slow references."""

import pytest
import torch

from avsmamba.models.baselines import ECMVAELatents, ECMVAEPyramid
from tests.models.conftest import assert_every_parameter_learns


def small_latents(sees_masks):
    module = ECMVAELatents(6, 5, 4, 16, (3, 4), (5, 6), 7, sees_masks).double()
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean)
    return module.eval()


def slow_conv(x, conv, norm):
    """Convolve `(C, h, w)` pixel by pixel with stride 2, normalise, leaky ReLU."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    y = torch.stack(
        [
            torch.stack(
                [
                    (conv.weight * padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]).sum((1, 2, 3)) + conv.bias
                    for j in range(x.shape[2] // 2)
                ],
                -1,
            )
            for i in range(x.shape[1] // 2)
        ],
        1,
    )
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    y = (y - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    return torch.where(y > 0, y, 0.01 * y)


def slow_encoder(encoder, x, audio):
    parts = []
    if x is not None:
        layers = list(encoder.picture)
        convs = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
        norms = [layer for layer in layers if isinstance(layer, torch.nn.BatchNorm2d)]
        for conv, norm in zip(convs, norms, strict=True):
            x = slow_conv(x, conv, norm)
        x = x.reshape(-1)
        parts.append(x if audio is None else layers[-1].weight @ x + layers[-1].bias)
    if audio is not None:
        parts.append(audio)
    numbers = encoder.gaussian.weight @ torch.cat(parts) + encoder.gaussian.bias
    return numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]


@pytest.mark.parametrize("sees_masks", [False, True])
def test_latents_equal_their_description(sees_masks):
    module = small_latents(sees_masks)
    frames, audio = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    masks = torch.randint(0, 2, (3, 1, 16, 16), dtype=torch.uint8) if sees_masks else None
    found = module(frames, audio, masks)
    for n in range(3):
        mask = None if masks is None else masks[n].double()
        both = frames[n] if mask is None else torch.cat([frames[n], mask])
        expected = [
            slow_encoder(module.visual, both, None),
            slow_encoder(module.audio, mask, audio[n]),
            slow_encoder(module.shared, both, audio[n]),
        ]
        for i, (mean, log_variance) in enumerate(expected):
            torch.testing.assert_close(found.mean[n, i], mean)
            torch.testing.assert_close(found.log_variance[n, i], log_variance)


def test_joining_equals_its_description():
    module = small_latents(False)
    z = torch.randn(6, 3, 4, dtype=torch.float64)
    maps = [torch.randn(2, 3, 4 >> i, 2 >> i, 6, dtype=torch.float64) for i in range(2)]
    joined = module.join(z)
    fused = module.fused(maps, joined)
    assert fused[0] is maps[0]
    for b in range(2):
        for t in range(3):
            n = 3 * b + t
            z_v, z_a, z_c = z[n]
            s_v = module.join_visual.weight @ torch.cat([z_v, z_c]) + module.join_visual.bias
            s_a = module.join_audio.weight @ torch.cat([z_a, z_c]) + module.join_audio.bias
            torch.testing.assert_close(joined[n], torch.stack([s_v, s_a]))
            for i in range(2):
                expected = module.fuse.weight @ torch.cat([maps[1][b, t, i, 0], s_v, s_a]) + module.fuse.bias
                torch.testing.assert_close(fused[1][b, t, i, 0], expected)


def test_frames_of_another_size_are_resized():
    module = small_latents(False)
    frames, audio = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    double = frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(module(double, audio).mean, module(frames, audio).mean)


def test_pyramid_equals_its_parts(maps, audio):
    pyramid = ECMVAEPyramid(8, 8).double()
    other = ECMVAEPyramid(8, 8).double().decoder
    for block in pyramid.interactions:
        torch.nn.init.ones_(block.mu_norm.weight)
    assert_every_parameter_learns(pyramid, pyramid(maps, audio).mask_features)
    pyramid.eval()
    mixed = [block(x, audio) for block, x in zip(pyramid.interactions, maps, strict=True)]
    features = pyramid(maps, audio)
    torch.testing.assert_close(features.mask_features, pyramid.decoder([x for x, _ in mixed]))
    assert features.mask_features.shape == (2, 3, 32, 16, 8)
    for pair, expected in zip(features.pairs, mixed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))
    torch.testing.assert_close(pyramid(maps, audio, other.eval()).mask_features, other([x for x, _ in mixed]))


def test_wrong_size():
    with pytest.raises(ValueError, match="size: expected a multiple of 32"):
        ECMVAELatents(size=48)
