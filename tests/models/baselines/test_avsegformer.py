"""AVSegFormer's parts: deformable attention against a slow reference, shapes, gradients, what each part may see."""

import math

import pytest
import torch
import torch.nn.functional as F

from avsmamba.models.baselines import AVSegFormerDecoder, AVSegFormerEncoder, AVSegFormerHead, AVSegFormerMixer
from avsmamba.models.baselines.avsegformer import GeneratorLayer
from avsmamba.models.layers.deformable import DeformableAttention, pixel_centres, sine_positions
from tests.models.conftest import assert_every_parameter_learns

SIZES = ((5, 3), (2, 4), (1, 1))


def attention(channels=6, levels=3, heads=2, points=2):
    """Return deformable attention away from its start, where all offsets are whole pixels and all weights equal."""
    module = DeformableAttention(channels, levels, heads, points).double()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return module


def bilinear(image, x, y):
    """Return the value of `(C, h, w)` at the point (x, y), in pixels from the outer corner; zero outside."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    value = torch.zeros(image.shape[0], dtype=image.dtype)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value = value + image[:, row, column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return value


def test_deformable_attention_equals_a_loop_over_points():
    module, tokens = attention(), sum(h * w for h, w in SIZES)
    query, value = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, tokens, 6, dtype=torch.float64)
    reference = torch.rand(4, 2, dtype=torch.float64)
    out = module(query, value, reference, SIZES)
    starts = [0, 15, 23]
    for n in range(2):
        projected = module.value(value[n])
        for i in range(4):
            offsets = module.offsets(query[n, i]).view(2, 3, 2, 2).detach()
            weights = module.weights(query[n, i]).view(2, 6).softmax(-1).view(2, 3, 2)
            heads = []
            for m in range(2):
                total = torch.zeros(3, dtype=torch.float64)
                for level, (h, w) in enumerate(SIZES):
                    chunk = projected[starts[level] : starts[level] + h * w, 3 * m : 3 * m + 3]
                    image = chunk.T.reshape(3, h, w)
                    for p in range(2):
                        x = float(reference[i, 0] * w + offsets[m, level, p, 0])
                        y = float(reference[i, 1] * h + offsets[m, level, p, 1])
                        total = total + weights[m, level, p] * bilinear(image, x, y)
                heads.append(total)
            torch.testing.assert_close(out[n, i], module.output(torch.cat(heads)))


def test_deformable_attention_gradients():
    module, tokens = attention(channels=4, levels=2), 15 + 8
    query = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    value = torch.randn(1, tokens, 4, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.31, 0.62], [0.77, 0.18]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, v: module(q, v, reference, SIZES[:2]), (query, value))
    assert_every_parameter_learns(module, module(query, value, reference, SIZES[:2]))


def test_deformable_attention_starts_on_a_ring():
    module = DeformableAttention(8, 1, num_heads=4, num_points=3)
    offsets = module.offsets(torch.randn(8)).view(4, 3, 2)
    torch.testing.assert_close(offsets[0, :, 0], torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(offsets[1, :, 1], torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="num_heads: 3 heads"):
        DeformableAttention(8, 1, num_heads=3)


def test_low_precision_keeps_the_places():
    module, query, value = attention().float(), torch.randn(1, 4, 6), torch.randn(1, 24, 6)
    reference = torch.rand(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        low = module(query, value, reference, SIZES)
    torch.testing.assert_close(low.float(), module(query, value, reference, SIZES), atol=0.15, rtol=0.1)


def test_positions_tell_pixels_and_axes_apart():
    centres = pixel_centres(((2, 4),))
    assert centres[0].tolist() == [0.125, 0.25] and centres[-1].tolist() == [0.875, 0.75]
    positions = sine_positions(((2, 4),), 8).view(2, 4, 8)
    torch.testing.assert_close(positions[0, 0, :4], positions[0, 3, :4])
    torch.testing.assert_close(positions[0, 0, 4:], positions[1, 0, 4:])
    assert torch.pdist(positions.flatten(0, 1)).min() > 0.1
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_positions(((2, 4),), 6)


def test_encoder_changes_its_scales_frame_by_frame(maps):
    encoder = AVSegFormerEncoder(8, num_layers=2, num_heads=2, ffn_dims=16, dropout=0.0).double()
    out = encoder(maps)
    assert out[0] is maps[0] and [o.shape for o in out] == [m.shape for m in maps]
    other = [m.clone() for m in maps]
    for m in other:
        m[1, 2] += 1
    differs = [(a != b).flatten(2).any(-1) for a, b in zip(encoder(other)[1:], out[1:], strict=True)]
    assert all(d[1, 2] and d.sum() == 1 for d in differs)
    # At its start the attention does not depend on the token, and the levels' embedding has no gradient.
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.attention.weights.weight)
    assert_every_parameter_learns(encoder, encoder(maps)[1:])


def test_attention_to_one_token_is_its_value():
    layer = GeneratorLayer(8, 2, 16).double()
    full = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        full.in_proj_weight[16:] = layer.value.weight
        full.out_proj.weight.copy_(layer.output.weight)
    query, audio = torch.randn(3, 4, 8, dtype=torch.float64), torch.randn(3, 1, 8, dtype=torch.float64)
    torch.testing.assert_close(layer.output(layer.value(audio)).expand(-1, 4, -1), full(query, audio, audio)[0])


def test_decoder_makes_queries_from_its_own_second(maps, audio):
    decoder = AVSegFormerDecoder(8, 5, 2, 2, num_heads=2, ffn_dims=16, generator_ffn_dims=16, dropout=0.0).double()
    (query,) = decoder(maps, audio)
    assert query.shape == (2, 3, 5, 8)
    assert torch.pdist(query[0, 0]).min() > 1e-3, "the queries of a frame differ"
    louder = audio.clone()
    louder[0, 1] += 1
    differs = (decoder(maps, louder)[0] - query).abs().amax((2, 3)) > 1e-9
    assert differs[0, 1] and differs.sum() == 1
    assert_every_parameter_learns(decoder, query)


def test_mixer_weighs_channels_by_the_sound(maps, audio):
    mixer = AVSegFormerMixer(8, num_heads=2).double()
    features = mixer(maps, audio)
    assert features.shape == maps[0].shape
    other = mixer(maps, -audio)
    ratio = features.amax((2, 3), keepdim=True) / other.amax((2, 3), keepdim=True)
    torch.testing.assert_close(features, other * ratio, msg="one weight a channel and frame")
    assert (ratio - 1).abs().max() > 1e-3
    assert_every_parameter_learns(mixer, features)
    with pytest.raises(ValueError, match="num_heads"):
        AVSegFormerMixer(8, num_heads=3)


def test_gate_equals_attention_written_out():
    mixer = AVSegFormerMixer(8, num_heads=2).double()
    pixels, audio = torch.randn(3, 7, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    key, value = F.linear(pixels, mixer.key_value.weight).chunk(2, -1)
    query = F.linear(audio, mixer.query.weight)
    parts = []
    for m in (slice(0, 4), slice(4, 8)):
        weights = (torch.einsum("nc,npc->np", query[:, m], key[..., m]) / 2).softmax(-1)
        parts.append(torch.einsum("np,npc->nc", weights, value[..., m]))
    torch.testing.assert_close(mixer.gate(pixels, audio), torch.sigmoid(mixer.output(torch.cat(parts, -1))))


def test_head(maps):
    head = AVSegFormerHead(8, num_classes=2, num_queries=5, mlp_dims=16, hidden_dims=(8, 6)).double()
    query = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    out = head(query, maps[0])
    assert out.logits.shape == (2, 3, 2, 64, 32) and out.intermediate.shape == (2, 3, 1, 16, 8)
    assert_every_parameter_learns(head, [out.logits, out.intermediate])
    bare = AVSegFormerHead(8, num_queries=5, mlp_dims=16, mixing_mask=False).double()
    assert bare(query, maps[0]).intermediate is None
    with pytest.raises(ValueError, match="num_queries: the head has 5, the decoder 4"):
        head(query[:, :, :4], maps[0])
