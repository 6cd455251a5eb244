"""SelM's decoder, head and loss against slow references, its noise, export."""

import pytest
import torch
import torch.nn.functional as F

from avsmamba.models.baselines import HitMapLoss, SelMDecoder, SelMHead
from avsmamba.models.baselines.selm_decoder import Grouping, Level, Loading
from tests.models.conftest import assert_every_parameter_learns


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def one_hot(logits):
    return F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).to(logits.dtype)


def test_loading_equals_its_definition():
    block = Loading(8, 0.3).double().eval()
    tokens, audio = random(2, 2, 8), random(2, 8)
    for n, found in enumerate(block(tokens, audio)):
        sound = block.output(block.norm_audio(audio[n]) @ block.value.weight.T)
        for token, expected in zip(found, (tokens[n, 0], tokens[n, 1] + sound), strict=True):
            hidden = F.gelu(block.mlp[0](block.norm(expected)))
            torch.testing.assert_close(token, block.mlp[3](hidden))


def test_grouping_equals_its_definition():
    block = Grouping(8, 0.3, None).double().eval()
    tokens, pixels = random(2, 2, 8), random(2, 7, 8)
    found, assigned = block(tokens, pixels)
    for n in range(2):
        placed = [block.norm_pixels(p) for p in pixels[n]]
        mine = [[], []]
        for p, x in enumerate(placed):
            k = block.key(x)
            cosine = [F.cosine_similarity(block.query(block.norm_tokens(t)), k, 0) for t in tokens[n]]
            mine[int(cosine[1] > cosine[0])].append(p)
        assert [len(m) for m in mine] != [7, 0]
        for t in range(2):
            assert torch.equal(assigned[n, t].round(), torch.tensor([float(p in mine[t]) for p in range(7)]).double())
            mean = sum((block.value(placed[p]) for p in mine[t]), torch.zeros(8).double()) / (len(mine[t]) + 1)
            hidden = F.gelu(block.mlp[0](block.norm(block.output(mean) + tokens[n, t])))
            torch.testing.assert_close(found[n, t], block.mlp[3](hidden))


def test_the_assignment_has_the_gradient_of_the_softmax():
    block, logits = Grouping(8, 0.0, None).eval(), random(2, 2, 5).requires_grad_()
    factor = random(2, 2, 5)
    hard = block.assign(logits)
    torch.testing.assert_close(hard, one_hot(logits))
    (got,) = torch.autograd.grad((hard * factor).sum(), logits)
    torch.testing.assert_close(got, torch.autograd.grad((logits.softmax(1) * factor).sum(), logits)[0])


def test_noise_is_gumbel_s_in_training_alone_unless_a_seed_is_set():
    logits = torch.tensor([0.0, 1.0])[None, :, None].repeat(1, 1, 20_000)
    block = Grouping(8, 0.0, None)
    share = block.assign(logits)[0, 1].mean().item()
    assert share == pytest.approx(1 / (1 + 2.718281828**-1), abs=0.01)  # the softmax: Gumbel's trick
    assert torch.equal(block.eval().assign(logits)[0, 1], torch.ones(20_000))
    seeded = Grouping(8, 0.0, 3).eval()
    first, again = seeded.assign(logits), seeded.assign(logits)
    assert torch.equal(first, again) and first[0, 1].mean().item() == pytest.approx(share, abs=0.02)
    state = torch.get_rng_state()
    seeded.assign(logits)
    assert torch.equal(torch.get_rng_state(), state)


def test_level_equals_its_definition_and_its_positions_are_resized():
    level = Level(8, 4, 0.0, Grouping(8, 0.0, None)).double().eval()
    coarse, fine, tokens, audio = random(3, 8, 2, 2), random(3, 8, 4, 4), random(3, 2, 8), random(3, 8)
    pixels, found, assigned = level(coarse, fine, tokens, audio)
    large = F.interpolate(coarse, (4, 4), mode="bilinear", align_corners=True)
    x = torch.cat([large, fine], 1)
    for conv, norm, _ in level.fuse:
        x = F.group_norm(F.conv2d(x, conv.weight, conv.bias, padding=1), 1, norm.weight, norm.bias).relu()
    torch.testing.assert_close(pixels, x)
    placed = (x + level.positions).flatten(2).transpose(1, 2)
    expected, hits = level.group(level.load(tokens, audio), placed)
    torch.testing.assert_close(found, expected)
    assert assigned.shape == (3, 2, 4, 4) and torch.equal(assigned.flatten(2), hits)
    seen = []
    level.group.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    pixels = level(random(3, 8, 3, 2), random(3, 8, 6, 4), tokens, audio)[0]
    places = F.interpolate(level.positions, (6, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[0], (pixels + places).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("num_classes", "upsamplings"), [(1, 2), (5, 1), (1, 0)])
def test_decoder_and_head(maps, audio, num_classes, upsamplings):
    decoder, head = SelMDecoder(8, (4, 8, 16)).double().eval(), SelMHead(8, num_classes, upsamplings).double()
    (query,) = decoder(maps, audio)
    *finer, pixels = (m.flatten(0, 1).permute(0, 3, 1, 2) for m in maps)
    tokens = decoder.tokens.expand(6, -1, -1)
    for level, fine, (hits, _) in zip(decoder.levels, finer[::-1], query.pairs, strict=True):
        pixels, tokens, assigned = level(pixels, fine, tokens, audio.flatten(0, 1))
        torch.testing.assert_close(hits.flatten(0, 1)[..., 0], assigned[:, 1])
    torch.testing.assert_close(query.token.flatten(0, 1), tokens[:, 1])
    torch.testing.assert_close(query.pixels.flatten(0, 1), pixels)
    assert query.token.shape == (2, 3, 8) and query.pixels.shape == (2, 3, 8, 16, 8)
    assert [hits.shape for hits, _ in query.pairs] == [(2, 3, 4, 2, 1), (2, 3, 8, 4, 1), (2, 3, 16, 8, 1)]
    assert all(sound is audio and set(hits.detach().round().unique().tolist()) <= {0, 1} for hits, sound in query.pairs)
    out = head(query, maps[0])
    scale = 2**upsamplings
    assert out.logits.shape == (2, 3, num_classes, 16 * scale, 8 * scale) and out.pairs is query.pairs
    x = query.pixels.flatten(0, 1)
    for conv in head.convs:
        x = conv(F.interpolate(x, scale_factor=2, mode="bilinear"))
    x = torch.einsum("dc,nchw->ndhw", head.last.weight, x) + head.last.bias[:, None, None]
    kernels = head.kernels(query.token.flatten(0, 1))
    for n, picture in enumerate(x):
        if num_classes == 1:
            expected = ((kernels[n, :8, None, None] * picture).sum(0) + kernels[n, 8])[None]
        else:
            expected = torch.stack([(k[:, None, None] * picture).sum(0) for k in kernels[n].view(5, 8)])
        torch.testing.assert_close(out.logits.flatten(0, 1)[n], expected)
    assert_every_parameter_learns(torch.nn.ModuleList([decoder, head]), [out.logits, *(hits for hits, _ in out.pairs)])


def test_frames_are_decoded_alone(maps, audio):
    decoder, head = SelMDecoder(8, (4, 8, 16)).double().eval(), SelMHead(8).double()
    before = head(decoder(maps, audio)[0], maps[0]).logits
    louder = audio.clone()
    louder[0, 1] *= -1
    changed = (head(decoder(maps, louder)[0], maps[0]).logits - before).abs().amax((2, 3, 4)) > 1e-9
    assert changed.tolist() == [[False, True, False], [False] * 3]


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"sides: expected one for each of three levels, got \[4, 8\]"):
        SelMDecoder(8, (4, 8))
    with pytest.raises(ValueError, match=r"weights: expected one for each of 1 hit maps, got \[1, 2\]"):
        HitMapLoss((1, 2))(torch.zeros(()), [(torch.zeros(1, 1, 2, 2, 1), None)], None, torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_hit_map_loss_equals_its_formula(sigmoid):
    masks = torch.randint(0, 3, (2, 3, 8, 4))
    masks[0, 0] = 0
    pairs = [(torch.randint(0, 2, (2, 3, 4 >> i, 2 >> i, 1)).double(), None) for i in (1, 0)]
    labelled = torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    loss = HitMapLoss((0.5, 2.0), sigmoid=sigmoid)
    expected = 0.0
    for weight, side, (hits, _) in zip((0.5, 2.0), (4, 2), pairs, strict=True):
        for b, t in labelled.nonzero().tolist():
            p = hits[b, t, :, :, 0].repeat_interleave(side, 0).repeat_interleave(side, 1)
            p = p.sigmoid() if sigmoid else p
            g = (masks[b, t] > 0).double()
            dice = 1 - 2 * (p * g).sum() / (p.square().sum() + g.sum() + 0.002)
            expected += weight * dice / 3
    torch.testing.assert_close(loss(torch.zeros(()), pairs, labelled, masks), expected)
    every = loss(torch.zeros(()), pairs, None, masks)
    torch.testing.assert_close(every, loss(torch.zeros(()), pairs, torch.ones(2, 3, dtype=torch.bool), masks))
    perfect = [((masks > 0).double()[..., None], None)] * 2
    left = loss(torch.zeros(()), perfect, labelled & (masks > 0).any(-1).any(-1), masks)
    assert left > 0.1 if sigmoid else left < 1e-3
    nothing = loss(torch.zeros(()), pairs, torch.zeros(2, 3, dtype=torch.bool), masks)
    assert nothing == 0


def test_the_decoder_is_exported_for_any_batch():
    decoder = SelMDecoder(8, (4, 8, 16)).eval()

    def clip(b, t):
        return [torch.randn(b, t, 64 // s, 32 // s, 8) for s in (4, 8, 16, 32)], torch.randn(b, t, 8)

    shape = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("frames", min=1, max=80)}
    exported = torch.export.export(decoder, clip(2, 3), dynamic_shapes=([shape] * 4, shape)).module()
    other = clip(1, 5)
    with torch.no_grad():
        for found, expected in zip(exported(*other)[0][:2], decoder(*other)[0][:2], strict=True):
            torch.testing.assert_close(found, expected)
