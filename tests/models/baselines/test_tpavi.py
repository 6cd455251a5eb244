"""TPAVI's parts: the block against its formula with all pairs of pixels, shapes, gradients, the mapping loss."""

import pytest
import torch

from avsmamba.models.baselines import AVMLoss, TPAVIHead, TPAVIProjection, TPAVIPyramid
from avsmamba.models.baselines.tpavi import TPAVIBlock
from tests.models.conftest import assert_every_parameter_learns


def awake(module):
    """Leave the start at zero of the blocks' last normalisation, which hides the rest of them from the gradient."""
    for block in module.modules():
        if isinstance(block, TPAVIBlock):
            torch.nn.init.uniform_(block.mu_norm.weight, 0.5, 1.5)
    return module


def every_pair_of_pixels(block, visual, audio):
    """Compute the paper's formula: one affinity for each pair of pixels, the audio repeated over them."""
    b, t, h, w, c = visual.shape
    aligned = block.audio(audio)
    out = []
    for clip, sound in zip(visual, aligned, strict=True):
        v = clip.reshape(t * h * w, c)
        a = sound[:, None, None].expand(t, h, w, c).reshape(t * h * w, c)
        alpha = block.theta(v) @ block.phi(a).T / (t * h * w)
        out.append(block.mu(alpha @ block.g(v)))
    y = torch.stack(out).flatten(0, 1)
    norm = block.mu_norm
    y = (y - y.mean(0)) / (y.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    z = visual + y.view(b, t, h, w, c)
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, unbiased=False, keepdim=True) + block.norm.eps).sqrt()
    return z * block.norm.weight + block.norm.bias, aligned


def test_block_equals_the_formula_over_every_pair_of_pixels():
    block = awake(TPAVIBlock(6, 5)).double()
    visual, audio = torch.randn(2, 3, 5, 2, 6, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    out, aligned = block(visual, audio)
    expected, expected_audio = every_pair_of_pixels(block, visual, audio)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(aligned, expected_audio)


def test_block_starts_deaf_and_clips_stay_apart():
    block = TPAVIBlock(6, 5).double().eval()
    visual, audio = torch.randn(2, 3, 5, 2, 6, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(block(visual, audio)[0], block(visual, -audio)[0])
    out = awake(block)(visual, audio)[0]
    audio[0, 2] += 1
    changed = (block(visual, audio)[0] - out).abs().amax(-1)
    assert changed[0].min() > 0, "one second's sound reaches every pixel of every second"
    assert changed[1].max() == 0


def test_parts_fit_and_every_parameter_learns():
    maps = [torch.randn(6, 2 + i, 64 >> i, 32 >> i, dtype=torch.float64) for i in (2, 3, 4, 5)]
    audio = torch.randn(2, 3, 7, dtype=torch.float64)
    projection = TPAVIProjection((4, 5, 6, 7), 7, embed_dims=8, dilations=(1, 2), audio_norm="BN").double()
    pyramid = awake(TPAVIPyramid(8, audio_channels=7)).double()
    head = TPAVIHead(8, num_classes=3, hidden_dims=(8, 6)).double()
    model = torch.nn.ModuleList([projection, pyramid, head])
    projected, sound = projection(maps, audio)
    features = pyramid(projected, sound)
    assert features.mask_features.shape == (2, 3, 32, 16, 8)
    out = head(sound.unsqueeze(2), features)
    assert out.logits.shape == (2, 3, 3, 64, 32) and out.intermediate is None
    assert [tuple(v.shape) for v, _ in out.pairs] == [(2, 3, 64 // s, 32 // s, 8) for s in (4, 8, 16, 32)]
    assert all(a.shape == (2, 3, 8) for _, a in out.pairs)
    assert_every_parameter_learns(model, out.logits)


def test_stages_and_wrong_arguments():
    pyramid = TPAVIPyramid(8, 5, stages=(3, 4))
    maps, audio = [torch.randn(1, 2, 16 // s, 24 // s, 8) for s in (1, 2, 4, 8)], torch.randn(1, 2, 5)
    assert len(pyramid(maps, audio).pairs) == 2
    with pytest.raises(ValueError, match="audio_channels: expected 5"):
        pyramid(maps, torch.randn(1, 2, 6))
    with pytest.raises(ValueError, match="audio_norm"):
        TPAVIProjection((1, 2, 3, 4), 5, 8, audio_norm="LN")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_mapping_loss_equals_its_formula(reduction):
    logits = torch.randn(2, 3, 1, 8, 12)
    pairs = [(torch.randn(2, 3, h, w, 5), torch.randn(2, 3, 5)) for h, w in ((4, 6), (2, 3))]
    expected = 0.0
    for visual, audio in pairs:
        h, w = visual.shape[2:4]
        for b in range(2):
            for t in range(3):
                pooled = logits[b, t, 0].reshape(h, 8 // h, w, 12 // w).mean((1, 3))
                v = (visual[b, t] * torch.sigmoid(pooled)[..., None]).mean((0, 1)).softmax(0)
                a = audio[b, t].softmax(0)
                expected += (a * (a / v).log()).sum() / 2
    expected = 0.5 * expected / (1 if reduction == "sum" else 6)
    torch.testing.assert_close(AVMLoss(0.5, reduction)(logits, pairs), expected)


def test_mapping_loss_of_several_classes_takes_what_is_no_background():
    logits, labelled = torch.randn(2, 3, 4, 8, 12, requires_grad=True), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    visual, audio = torch.randn(2, 3, 4, 6, 5, requires_grad=True), torch.randn(2, 3, 5, requires_grad=True)
    expected = 0.0
    for b, t in labelled.nonzero().tolist():
        sounding = (logits[b, t].argmax(0) > 0).float().reshape(4, 2, 6, 2).mean((1, 3))
        assert 0 < sounding.mean() < 1
        v, a = (visual[b, t] * sounding[..., None]).mean((0, 1)).softmax(0), audio[b, t].softmax(0)
        expected += 0.5 * (a * (a / v).log()).sum() / 3
    loss = AVMLoss(0.5, "mean")(logits, [(visual, audio)], labelled)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is None and not visual.grad[~labelled].any() and visual.grad[labelled].any()
    torch.testing.assert_close(AVMLoss()(logits, [(visual, audio)], labelled), AVMLoss()(logits, [(visual, audio)]))
    assert AVMLoss(0.5, "mean")(logits, [(visual, audio)], torch.zeros(2, 3).bool()) == 0


def test_mapping_loss_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match="reduction"):
        AVMLoss(reduction="max")
