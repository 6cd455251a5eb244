"""CATR: temporal layer and gate against slow references, what is read, gradients, sizes, training."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from avsmamba.config.load import load_config
from avsmamba.models.baselines import CATRDecoder, CATREncoder, CATRProjection, CATRPyramid
from avsmamba.models.baselines.catr import BlockGate, TemporalLayer
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.registry import MODELS
from tests import ROOT
from tests.models.baselines.checks import (
    assert_equal_and_finite,
    assert_gradients_are_finite_in_bfloat16,
    totals_of_training,
)
from tests.models.conftest import assert_every_parameter_learns
from tests.models.test_padding import clips, gradients, refilled

BASELINES = ROOT / "configs" / "baselines"
TINY = BASELINES / "catr_tiny_ms3_shapes.yaml"
FULL = sorted(BASELINES.glob("catr_*_224.yaml"))
RELEASED = {
    "fpn": "released",
    "model.pyramid.gate": "released",
    "model.encoder.audio_copy": "first",
    "model.decoder.audio_queries": False,
}


def build(options=None, config=TINY):
    return MODELS.build(load_config(str(config), options).model)


def attend(attention, query, keys, values):
    """Attend from one vector `(C,)` to L, head by head."""
    q, k, v = attention.query(query), attention.key(keys), attention.value(values)
    width = len(q) // attention.num_heads
    parts = []
    for head in range(attention.num_heads):
        s = slice(head * width, (head + 1) * width)
        weights = torch.stack([(q[s] * key).sum() / width**0.5 for key in k[:, s]]).exp()
        parts.append(sum(w * value for w, value in zip(weights / weights.sum(), v[:, s], strict=True)))
    return attention.output(torch.cat(parts))


def slow_layer(layer, pixels, audio, positions):
    """Run one clip `(T, L, C)` token by token."""
    frames, copies = [], []
    for frame in pixels:
        tokens = torch.cat([frame, audio])
        placed = torch.cat([frame + positions, audio])
        new = []
        for token, query in zip(tokens, placed, strict=True):
            y = layer.frame.norm1(token + attend(layer.frame.attention, query, placed, tokens))
            new.append(layer.frame.norm2(y + layer.frame.ffn(y)))
        frames.append(torch.stack(new[: len(frame)]))
        copies.append(torch.stack(new[len(frame) :]))
    sounds = copies[0] if layer.audio_copy == "first" else torch.stack([c[t] for t, c in enumerate(copies)])
    fused = torch.stack([torch.stack([x * attend(layer.to_pixels, x, sounds, sounds) ** 2 for x in f]) for f in frames])
    if layer.to_audio is None:
        return fused, sounds
    keys, values = (fused + positions).flatten(0, 1), fused.flatten(0, 1)
    return fused, torch.stack([a * attend(layer.to_audio, a, keys, values) ** 2 for a in sounds])


@pytest.mark.parametrize("audio_copy", ["own", "first"])
@pytest.mark.parametrize("last", [False, True])
def test_temporal_layer_equals_its_definition(audio_copy, last):
    layer = TemporalLayer(8, 2, 12, 0.1, audio_copy, last).double().eval()
    pixels, audio = torch.randn(2, 3, 6, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    positions = sine_positions(((3, 2),), 8).double()
    found = layer(pixels, audio, positions)
    for b in range(2):
        for x, y in zip(found, slow_layer(layer, pixels[b], audio[b], positions), strict=True):
            torch.testing.assert_close(x[b], y)


def slow_gate(gate, blocks):
    """Run the gate for one frame: blocks `(C, h, w)`, the convolutions of the weights pixel by pixel."""
    h, w = blocks[0].shape[1:]

    def mean(conv, before, block):
        padded = F.pad(torch.cat([before, block]), (1, 1, 1, 1))
        total = torch.zeros(len(conv.bias), dtype=block.dtype)
        for y in range(h):
            for x in range(w):
                value = (conv.weight * padded[:, y : y + 3, x : x + 3]).sum((1, 2, 3)) + conv.bias
                total += 1 / (1 + (-value).exp())
        return total / (h * w)

    if gate.gate == "released":
        first = mean(gate.weights[0], *blocks[:2])
        weights = [first[0], *[(1 / (1 + (-first).exp())).mean()] * (len(blocks) - 2)]
    else:
        weights = [mean(conv, *pair)[0] for conv, pair in zip(gate.weights, pairwise(blocks), strict=True)]
    y = gate.fusions[0]((weights[0] * blocks[1])[None])
    for weight, block, fusion in zip(weights[1:], blocks[2:], gate.fusions[1:], strict=True):
        y = fusion(y + weight * block[None])
    return y[0]


@pytest.mark.parametrize(("gate", "num_blocks"), [("intended", 2), ("intended", 3), ("intended", 4), ("released", 3)])
def test_gate_equals_its_definition(gate, num_blocks):
    module = BlockGate(4, num_blocks, gate).double().eval()
    for norm in (fusion[1] for fusion in module.fusions):
        torch.nn.init.normal_(norm.running_mean)
    blocks = [torch.randn(2, 4, 5, 3, dtype=torch.float64) for _ in range(num_blocks)]
    found = module(blocks)
    for n in range(2):
        torch.testing.assert_close(found[n], slow_gate(module, [b[n] for b in blocks]))


def parts(fpn, gate, audio_queries):
    projection = CATRProjection((4, 5, 6, 7), 7, 16, dilations=(1, 2), fpn=fpn, dropout=0.0)
    encoder = CATREncoder(16, num_layers=2, num_heads=4, ffn_dims=24, dropout=0.0)
    decoder = CATRDecoder(16, 5, num_layers=2, num_heads=4, ffn_dims=24, dropout=0.0, audio_queries=audio_queries)
    return torch.nn.ModuleList([projection, encoder, decoder, CATRPyramid(16, gate=gate, fpn=fpn)]).double()


@pytest.mark.parametrize(
    ("fpn", "gate", "audio_queries", "size"),
    [("fine", "intended", True, (16, 8)), ("released", "released", False, (4, 2))],
)
def test_parts_fit_and_every_parameter_learns(fpn, gate, audio_queries, size):
    maps = [torch.randn(6, 2 + i, 64 >> i, 32 >> i, dtype=torch.float64) for i in (2, 3, 4, 5)]
    model = parts(fpn, gate, audio_queries)
    projection, encoder, decoder, pyramid = model
    projected, audio = projection(maps, torch.randn(2, 3, 7, dtype=torch.float64))
    read = {"fine": (0, 1, 2, 3), "released": (1, 2, 3)}[fpn]
    assert [m.shape[-1] for m in projected] == [16 if i in read else 4 + i for i in range(4)]
    features, sound = encoder(projected, audio)
    assert sound is audio and features.memory.shape == (2, 3, 8 * 4 + 3, 16)
    assert [b.shape for b in features.blocks] == [(2, 3, 8, 4, 16)] * 3
    queries, masks = decoder(features, sound), pyramid(features, sound)
    assert [q.shape for q in queries] == [(2, 3, 5, 16)] * 2 and masks.shape == (2, 3, *size, 4)
    assert_every_parameter_learns(model, [*queries, masks])


def test_who_hears_and_sees_whom():
    """Every second's sound reaches all frames; frames meet in the temporal encoder alone, clips nowhere."""
    maps = [torch.randn(6, 2 + i, 64 >> i, 32 >> i, dtype=torch.float64) for i in (2, 3, 4, 5)]
    audio = torch.randn(2, 3, 7, dtype=torch.float64)
    projection, encoder, decoder, pyramid = parts("fine", "intended", True).eval()

    def run():
        features, sound = encoder(*projection(maps, audio))
        return decoder(features, sound)[-1].detach(), pyramid(features, sound).detach()

    before = run()
    audio[0, 2] += 1
    for x, y in zip(before, run(), strict=True):
        changed = (x - y).abs().flatten(2).amax(-1)
        assert changed[0].min() > 0 and changed[1].max() == 0
    before = run()
    maps[1][1] += 1
    queries, masks = ((x - y).abs().flatten(2).amax(-1) for x, y in zip(before, run(), strict=True))
    assert masks[0].min() > 0 and masks[1].max() == 0
    assert queries[0, 1] > 0 and queries.sum() == queries[0, 1]


def test_wrong_arguments():
    maps = [torch.randn(3, 2 + i, 32 >> i, 32 >> i) for i in (2, 3, 4, 5)]
    projected, audio = CATRProjection((4, 5, 6, 7), 7, 16, fpn="released")(maps, torch.randn(1, 3, 7))
    features, audio = CATREncoder(16, num_heads=2, ffn_dims=8)(projected, audio)
    with pytest.raises(ValueError, match="fpn: maps 2, 3, 4, 1 are read"):
        CATRPyramid(16)(features, audio)
    with pytest.raises(ValueError, match="num_blocks: the pyramid has 2, the encoder 3"):
        CATRPyramid(16, num_blocks=2)(features, audio)
    with pytest.raises(ValueError, match="embed_dims: expected a multiple of 8"):
        CATRPyramid(12)
    with pytest.raises(ValueError, match="gate: expected one of"):
        CATRPyramid(16, gate="open")
    with pytest.raises(ValueError, match="num_blocks: expected at least 2"):
        CATREncoder(16, num_blocks=1)


# The public code's modules that run, without VGGish, counted from the description: 107.5 M. Modules there whose output
# nothing reads: the last layer's attention of the sounds, the first self-attention of equal queries with its norm, one
# convolution of the gate. Here: one vector, or two linear layers more.
LIVE = 107_531_176
UNREAD = 263_168 + 263_680 + 9_218


@pytest.mark.parametrize(
    ("options", "count"), [(RELEASED, LIVE - UNREAD - 590_848 + 256), ({}, LIVE - UNREAD + 2 * 65_792)]
)
def test_parameters_at_full_size(options, count):
    """Released reads map 1 nowhere (590,848); fine has laterals for two maps more, and audio in the queries."""
    assert round(LIVE / 1e6, 1) == 107.5
    found = []
    for backbone, channels in (("pvtv2b5", (64, 128, 320, 512)), ("r50", (256, 512, 1024, 2048))):
        config = load_config(str(BASELINES / f"catr_{backbone}_ms3_224.yaml"), options)
        with torch.device("meta"):
            model = MODELS.build(config.model)
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
        read = channels[1:] if options else channels
        assert parts["projection"] == 4 * sum(9 * c * 256 + 256 for c in read) + 129 * 256 + 512
        found.append(sum(parts.values()) - parts["audio_encoder"])
    assert found == [count, {False: 75_143_974, True: 72_652_326}[bool(options)]]


def test_configs_train_as_the_authors_do():
    assert len(FULL) == 4
    for path in FULL:
        cfg = load_config(str(path))
        assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ("Adam", 1e-5)
        assert cfg.optim_wrapper.clip_grad.max_norm == 5 and cfg.train_cfg.max_epochs == 100
        assert cfg.train_dataloader.batch_size == 2 and not cfg.get("custom_hooks")
        assert cfg.test_dataloader.dataset.pipeline[-1]["size"] == 448


def test_tiny_model_shares_data_schedule_and_encoders_with_avs_mamba():
    ours = load_config(str(ROOT / "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml"))
    theirs = load_config(str(TINY))
    del theirs.test_evaluator["convention"]
    for key in set(ours) - {"model"}:
        assert ours[key] == theirs[key], key
    for key in ("backbone", "audio_encoder", "data_preprocessor"):
        assert ours.model[key] == theirs.model[key], key
    counts = [sum(p.numel() for p in MODELS.build(c.model).parameters()) for c in (ours, theirs)]
    assert 0.9 < counts[1] / counts[0] < 1.15


@pytest.mark.parametrize(("options", "scale"), [({}, 4), (RELEASED, 16)])
def test_every_parameter_of_the_tiny_model_learns(options, scale):
    model = build(options)
    frames, log_mel, samples = clips([3, 3], labelled=[1, 3])
    losses = model(frames, log_mel, samples, mode="loss")
    assert set(losses) == {f"{d}loss_set_{n}" for d in ("", "d0.") for n in ("class", "mask", "dice", "focal")}
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [n for n in blind if not n.startswith("audio_encoder")]
    assert model.eval()(torch.randn(1, 4, 3, 64, 32), torch.randn(1, 4, 1, 96, 64)).shape == (
        1, 4, 1, 64 // scale, 32 // scale,
    )  # fmt: skip


def test_padding_changes_no_gradient():
    model = build()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = gradients(model, clips([2, 4], labelled=[1, 4]))
    model.load_state_dict(state)
    after = gradients(model, refilled(*clips([2, 4], labelled=[1, 4]), float("nan")))
    assert_equal_and_finite(before, after)


def test_mixed_precision_trains():
    assert_gradients_are_finite_in_bfloat16(build(), labelled=[3, 3])


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["sane", "released"])
def test_training_lowers_the_loss(shapes, options):
    totals = totals_of_training(build(options), shapes, steps=20)
    assert totals[-1] < 0.7 * totals[0]
