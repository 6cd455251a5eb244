"""Pixel decoder, masked-attention decoder and head: against slow references, and what each part may see."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from avsmamba.models import Projection
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.models.sets import DeformablePixelDecoder, MaskedAttentionDecoder, QueryMasks, QuerySetHead
from avsmamba.models.sets.masked_attention import Attention, MaskedAttentionLayer, allowed_pixels
from tests.models.conftest import assert_every_parameter_learns

DECODER = {"num_queries": 5, "num_layers": 4, "num_heads": 2, "ffn_dims": 6}
PIXELS = {"num_layers": 1, "num_heads": 2, "ffn_dims": 6}


@pytest.fixture
def pixel_decoder():
    """A pixel decoder away from its start, where no token chooses what it gathers."""
    decoder = DeformablePixelDecoder(8, **PIXELS).double()
    for p in decoder.encoder.parameters():
        nn.init.normal_(p, std=0.3)
    return decoder


@pytest.fixture
def decoder():
    return MaskedAttentionDecoder(8, **DECODER).double()


@pytest.fixture
def predicted(maps, audio, decoder):
    return decoder(maps, audio)


def test_attention_equals_torchs():
    ours, torchs = Attention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([x.weight for x in (ours.query, ours.key, ours.value)]))
        torchs.out_proj.weight.copy_(ours.output.weight)
        for layer in (ours.query, ours.key, ours.value, ours.output):
            nn.init.normal_(layer.bias)
        torchs.in_proj_bias.copy_(torch.cat([x.bias for x in (ours.query, ours.key, ours.value)]))
        torchs.out_proj.bias.copy_(ours.output.bias)
    q, k, v = (torch.randn(3, n, 8, dtype=torch.float64) for n in (4, 6, 6))
    allowed = torch.rand(3, 4, 6) > 0.4
    allowed[..., 0] = True
    for mask in (None, allowed):
        theirs = None if mask is None else ~mask.repeat_interleave(2, 0)
        torch.testing.assert_close(ours(q, k, v, mask), torchs(q, k, v, attn_mask=theirs)[0])
    with pytest.raises(ValueError, match="num_heads: 3 heads do not divide 8"):
        Attention(8, 3)


def test_allowed_pixels():
    masks = torch.full((1, 4, 4, 4), -1.0)
    masks[0, 1, :2] = 3.0
    masks[0, 2, 0, 0] = 2.9  # below zero in the mean of four pixels
    masks[0, 3, :2] = 0.0  # a probability of 0.5
    allowed = allowed_pixels(masks, (2, 2))[0].tolist()
    assert allowed == [[True] * 4, [True, True, False, False], [True] * 4, [True, True, False, False]]


def test_a_query_does_not_see_pixels_outside_of_its_mask():
    layer = MaskedAttentionLayer(8, 2, 6, 0.0).double()
    queries, places, pixels = (torch.randn(1, n, 8, dtype=torch.float64) for n in (2, 2, 4))
    pixels.requires_grad_()
    allowed = torch.tensor([[[True, False, True, False], [True, True, True, True]]])
    cross = layer.cross(queries + places, pixels, pixels, allowed)
    gradient = torch.autograd.grad(cross[0, 0].sum(), pixels)[0].abs().sum(-1)[0]
    assert (gradient > 0).tolist() == [True, False, True, False]
    assert torch.autograd.gradcheck(lambda p: layer(queries, places, p, p, allowed), (pixels,))


def test_shapes_and_gradients(maps, audio, decoder, predicted):
    assert len(predicted) == 5
    for layer in predicted:
        assert layer.queries.shape == (2, 3, 5, 8) and layer.masks.shape == (2, 3, 5, 16, 8)
    assert_every_parameter_learns(decoder, [t for layer in predicted for t in layer])


def test_layers_visit_the_scales_in_turn(maps, audio, decoder):
    """Output i sees the maps of the layers up to it, coarsest first."""
    for m in maps:
        m.requires_grad_()
    for i, layer in enumerate(decoder(maps, audio)):
        seen = torch.autograd.grad(layer.queries.sin().sum(), maps, retain_graph=True, allow_unused=True)
        assert [g is not None for g in seen] == [False, *(i > k for k in (2, 1, 0))]


def test_each_layer_attends_to_what_the_layer_before_marked(maps, audio, decoder, predicted):
    frame = [m[1, 2] for m in maps]
    queries = (decoder.content + decoder.audio(audio[1, 2])).unsqueeze(0)
    for i, layer in enumerate(decoder.layers):
        kernels = decoder.kernels(decoder.norm(queries))[0]
        scale = (3, 2, 1)[i % 3]
        h, w = frame[scale].shape[:2]
        allowed = torch.zeros(1, 5, h * w, dtype=torch.bool)
        for q in range(5):
            mask = F.interpolate((frame[0] @ kernels[q])[None, None], (h, w), mode="bilinear")[0, 0] >= 0
            allowed[0, q] = mask.flatten() if mask.any() else True
        pixels = frame[scale].flatten(0, 1)[None] + decoder.levels[i % 3]
        places = sine_positions(((h, w),), 8)
        queries = layer(queries, decoder.positions, pixels, places, allowed)
        torch.testing.assert_close(decoder.norm(queries)[0], predicted[i + 1].queries[1, 2])
        expected = torch.einsum("qc,hwc->qhw", decoder.kernels(decoder.norm(queries))[0], frame[0])
        torch.testing.assert_close(expected, predicted[i + 1].masks[1, 2])


def test_each_frame_is_decoded_alone(maps, audio, decoder, predicted):
    alone = decoder([m[1:, 2:] for m in maps], audio[1:, 2:])
    for a, b in zip(alone, predicted, strict=True):
        torch.testing.assert_close(a.masks[0, 0], b.masks[1, 2])


@pytest.mark.parametrize("kind", ["none", "add", "replace"])
def test_audio(maps, audio, kind):
    decoder = MaskedAttentionDecoder(8, **DECODER, audio=kind, audio_dims=(7,)).double()
    first, second = decoder(maps, audio), decoder(maps, audio + 1)
    assert torch.allclose(first[-1].masks, second[-1].masks) == (kind == "none")
    start = first[0].queries
    assert torch.allclose(start[:, :, :1], start[:, :, 1:]) == (kind == "replace")
    assert_every_parameter_learns(decoder, [t for layer in first for t in layer])


def test_unmasked_attention_and_wrong_audio(maps, audio, decoder, predicted):
    plain = MaskedAttentionDecoder(8, **DECODER, masked=False).double()
    plain.load_state_dict(decoder.state_dict())
    found = plain(maps, audio)
    torch.testing.assert_close(found[0].masks, predicted[0].masks)
    assert not torch.allclose(found[1].masks, predicted[1].masks)
    with pytest.raises(ValueError, match="audio: expected one of"):
        MaskedAttentionDecoder(8, audio="sum")


def test_pixels_and_queries_have_places(maps, audio):
    """Attention alone does not know the order of the pixels, nor one query of the same start from another."""
    decoder = MaskedAttentionDecoder(8, **DECODER, audio="replace", masked=False).double()
    found = decoder(maps, audio)
    moved = decoder([maps[0], *(m.flip(2) for m in maps[1:])], audio)
    assert not torch.allclose(found[-1].queries, moved[-1].queries)
    assert not torch.allclose(found[-1].queries[:, :, 0], found[-1].queries[:, :, 1])


def test_parameters_of_mask2former():
    """44 M with ResNet-50 and 133 classes, as in Table 1 of its paper: 23.5 M are the backbone's."""
    with torch.device("meta"):
        parts = [
            DeformablePixelDecoder(),
            MaskedAttentionDecoder(audio="none"),
            QuerySetHead(num_classes=133),
            Projection([256, 512, 1024, 2048], 128).visual,
        ]
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert round((23_508_032 + count) / 1e6, 1) == 44.0
    activations = {type(layer.ffn[1]) for part in parts[:1] for layer in part.encoder.layers}
    assert activations == {nn.ReLU}


def test_empty_masks_attend_everywhere(maps, audio, decoder):
    """With mask features of 0 all masks are 0.5: as without masks. With masks below 0 as well."""
    plain = MaskedAttentionDecoder(8, **DECODER, masked=False).double()
    plain.load_state_dict(decoder.state_dict())
    for value in (0.0, -1.0):
        for one in (decoder, plain):
            last = one.kernels[-1]
            nn.init.zeros_(last.weight)
            nn.init.ones_(last.bias)
        flat = [torch.full_like(maps[0], value), *maps[1:]]
        for a, b in zip(decoder(flat, audio), plain(flat, audio), strict=True):
            torch.testing.assert_close(a.queries, b.queries)


def test_semantic_inference_equals_a_loop(predicted):
    head = QuerySetHead(8, 3).double()
    out = head(predicted[-1], None)
    classes, masks = out.queries
    assert out.logits.shape == (2, 3, 3, 16, 8) and classes.shape == (2, 3, 5, 4)
    score = sum(classes[:, :, q].softmax(-1)[..., :3, None, None] * masks[:, :, q, None].sigmoid() for q in range(5))
    torch.testing.assert_close(out.logits.softmax(2), score / score.sum(2, keepdim=True))
    head.background = False
    rest = head(predicted[-1], None).logits.exp()
    torch.testing.assert_close(rest[:, :, 1:], score[:, :, 1:])
    torch.testing.assert_close(rest[:, :, 0], (1 - score[:, :, 1:].amax(2)).clamp(min=1e-6))


def test_one_class(predicted):
    head = QuerySetHead(8, 1).double()
    classes, masks = head(predicted[-1], None).queries
    score = (classes.softmax(-1)[..., :1, None] * masks.sigmoid()).sum(2, keepdim=True)
    found = head(predicted[-1], None).logits
    torch.testing.assert_close(found.sigmoid(), score.clamp(1e-6, 1 - 1e-6))
    best = QuerySetHead(8, 1, inference="best").double()
    best.load_state_dict(head.state_dict())
    chosen = best(predicted[-1], None).logits
    for b in range(2):
        for t in range(3):
            assert torch.equal(chosen[b, t, 0], masks[b, t, classes[b, t].softmax(-1)[:, 0].argmax()])


def test_masks_are_enlarged_for_inference_alone(predicted):
    head = QuerySetHead(8, 1, upsample=4).double()
    assert head(predicted[-1], None).logits.shape == (2, 3, 1, 16, 8)
    found = head.eval()(predicted[-1], None)
    assert found.logits.shape == (2, 3, 1, 64, 32) and found.queries[1].shape == (2, 3, 5, 16, 8)
    large = QueryMasks(
        predicted[-1].queries, F.interpolate(predicted[-1].masks.flatten(0, 1), (64, 32), mode="bilinear")
    )
    torch.testing.assert_close(
        found.logits, head.train()(large._replace(masks=large.masks.unflatten(0, (2, 3))), None).logits
    )


def test_queries_alone_get_masks_from_the_head(maps):
    head = QuerySetHead(8, 2, kernel_dims=(7, 8)).double()
    queries = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    out = head(queries, maps[0])
    torch.testing.assert_close(out.queries[1], torch.einsum("btqc,bthwc->btqhw", head.kernels(queries), maps[0]))
    assert_every_parameter_learns(head, out.logits)
    with pytest.raises(ValueError, match="kernel_dims: the decoder gives masks, got widths"):
        head(QueryMasks(queries, out.queries[1]), maps[0])
    with pytest.raises(ValueError, match="kernel_dims: the decoder gives queries alone, got none"):
        QuerySetHead(8).double()(queries, maps[0])


def test_options_of_the_head(predicted):
    out = QuerySetHead(8, 1, logit_gradient=False).double()(predicted[-1], None)
    assert not out.logits.requires_grad and all(t.requires_grad for t in out.queries)
    with pytest.raises(ValueError, match="inference: expected one of"):
        QuerySetHead(8, inference="panoptic")
    with pytest.raises(ValueError, match="inference: 'best' is for one class, got num_classes 2"):
        QuerySetHead(8, 2, inference="best")


def test_pixel_decoder(maps, pixel_decoder):
    found = pixel_decoder(maps)
    assert [m.shape for m in found] == [m.shape for m in maps]
    assert_every_parameter_learns(pixel_decoder, found)
    alone = pixel_decoder([m[1:, :1] for m in maps])
    for a, b in zip(alone, found, strict=True):
        torch.testing.assert_close(a[0, 0], b[1, 0])


def test_mask_features_see_all_scales_and_encoded_maps_not_the_finest(maps, pixel_decoder):
    for m in maps:
        m.requires_grad_()
    features, *coarse = pixel_decoder(maps)
    assert all(g.any() for g in torch.autograd.grad(features.sin().sum(), maps, retain_graph=True))
    for m in coarse:
        seen = torch.autograd.grad(m.sin().sum(), maps, retain_graph=True, allow_unused=True)
        assert seen[0] is None and all(g.any() for g in seen[1:])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_waits_for_the_device(device):
    with FakeTensorMode(), torch.device(device):
        maps = [torch.empty(2, 3, 64 // s, 32 // s, 8) for s in (4, 8, 16, 32)]
        pixels = DeformablePixelDecoder(8, **PIXELS)(maps)
        layers = MaskedAttentionDecoder(8, **DECODER)(pixels, torch.empty(2, 3, 8))
        out = QuerySetHead(8, 3, background=False, upsample=4).eval()(layers[-1], pixels[0])
        assert out.logits.shape == (2, 3, 3, 64, 32) and out.logits.device.type == device


class Parts(nn.Module):
    """Pixel decoder, decoder and head."""

    def __init__(self):
        super().__init__()
        self.pixels = DeformablePixelDecoder(8, **PIXELS)
        self.decoder = MaskedAttentionDecoder(8, **DECODER | {"num_layers": 2})
        self.head = QuerySetHead(8, 3)

    def forward(self, maps, audio):
        maps = self.pixels(maps)
        return self.head(self.decoder(maps, audio)[-1], maps[0]).logits


def test_parts_are_exported(maps, audio):
    parts = Parts().double().eval()
    program = torch.export.export(parts, (maps, audio))
    torch.testing.assert_close(program.module()(maps, audio), parts(maps, audio))
