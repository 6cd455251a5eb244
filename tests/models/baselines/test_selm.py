"""SelM: alignment and gates against slow references, its accidents, what hears what, sizes, padding, training."""

import pytest
import torch
import torch.nn.functional as F

from avsmamba.config.load import load_config
from avsmamba.models.baselines import HitMapLoss, SelMEncoder, SelMFusion, SelMProjection
from avsmamba.models.baselines.selm import DualAlignment, MambaLayer
from avsmamba.models.layers.ssm import SSMOptions
from avsmamba.registry import MODELS
from tests import ROOT
from tests.models.conftest import assert_every_parameter_learns
from tests.models.test_padding import clips

BASELINES = ROOT / "configs" / "baselines"
TINY = BASELINES / "selm_tiny_ms3_shapes.yaml"
FULL = sorted(BASELINES.glob("selm_*_224.yaml"))
RELEASED = {
    "model.stage_fusion.norm": "instance",
    "model.encoder.gates": "released",
    "model.decoder.test_seed": 0,
    "model.matching_losses.0.sigmoid": True,
}


def build(options=None, config=TINY):
    return MODELS.build(load_config(str(config), options).model)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def standardised(x, axis):
    return (x - x.mean(axis, keepdim=True)) / (x.var(axis, unbiased=False, keepdim=True) + 1e-5).sqrt()


# Dual alignment


@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_dual_alignment_equals_its_definition(norm):
    block = DualAlignment(6, 4, norm).double()
    x, audio = random(2, 6, 3, 2), random(2, 4)
    maps, sounds = block(x, audio)
    for n in range(2):
        pixels, a = x[n].flatten(1).T, audio[n]
        value, output = block.message
        u = [output(value(a))] * len(pixels)
        u = standardised(torch.stack(u), 0 if norm == "instance" else 1)
        r = torch.stack([F.gelu(block.fused(F.gelu(block.pixels(p)) * m)) for p, m in zip(pixels, u, strict=True)])
        gate = ((r @ block.gate[0].weight.T).relu() @ block.gate[2].weight.T).tanh()
        torch.testing.assert_close(maps[n].flatten(1).T, pixels + gate * r)
        key, value = (standardised(pixels @ layer.weight.T, 0) for layer in (block.key, block.value))
        q = block.query[1](block.query[0](a))
        weights = torch.stack([(q @ k) / 6**0.5 for k in key]).exp()
        found = (weights[:, None] * value).sum(0) / weights.sum()
        torch.testing.assert_close(sounds[n], a + F.gelu(block.answer[1](block.answer[0](found))))


def test_the_sound_reaches_the_map_unless_the_norm_is_over_the_pixels():
    x, audio = random(2, 6, 4, 2), random(2, 4)
    for norm, heard in (("layer", True), ("instance", False)):
        block = DualAlignment(6, 4, norm).double()
        change = (block(x, audio)[0] - block(x, -3 * audio)[0]).abs().amax((1, 2, 3))
        assert (change > 1e-3).all() if heard else (change < 1e-9).all()
        # The published block adds the same vector to every pixel of every map.
        added = block(x, audio)[0] - x
        assert ((added - added[:1, :, :1, :1]).abs().max() < 1e-9) != heard


def test_fusion_hands_the_sound_on_from_stage_to_stage():
    fusion = SelMFusion((6, 8, 6, 4), 7, 4).double()
    seen = []

    def backbone(frames, between):
        x, maps = frames, []
        for i, c in enumerate((6, 8, 6, 4)):
            x = F.avg_pool2d(x, 2)[:, :1].expand(-1, c, -1, -1)
            x = between(i, x)
            seen.append(x)
            maps.append(x)
        return maps

    frames, audio = random(6, 1, 32, 64), random(2, 3, 7)
    maps, sound = fusion(backbone, frames, audio)
    assert [m.shape for m in maps] == [(6, 6, 16, 32), (6, 8, 8, 16), (6, 6, 4, 8), (6, 4, 2, 4)]
    state = fusion.audio(audio.flatten(0, 1))
    assert sound.shape == (2, 3, 4) and not torch.allclose(sound.flatten(0, 1), state)
    assert_every_parameter_learns(fusion, [*maps, sound])
    audio[1, 2] += 1
    for before, after in zip([*maps, sound], [*(r := fusion(backbone, frames, audio))[0], r[1]], strict=True):
        changed = (before - after).abs().reshape(6, -1).amax(1) > 1e-9
        assert changed.tolist() == [False] * 5 + [True]


def test_projection():
    projection = SelMProjection((4, 5, 6, 7), 16, 16)
    maps, audio = [torch.randn(6, 4 + i, 8, 4) for i in range(4)], torch.randn(2, 3, 16)
    projected, same = projection(maps, audio)
    assert same is audio and all(m.shape == (2, 3, 8, 4, 16) for m in projected)
    groups = projected[0].unflatten(-1, (2, 8)).mean((2, 3, 5))
    torch.testing.assert_close(groups, torch.zeros(2, 3, 2), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="audio_channels: expected embed_dims 16, as from SelMFusion, got 8"):
        SelMProjection((4, 5, 6, 7), 8, 16)


# Gates over time


def slow_mamba(layer, sequence):
    """Run Mamba for one sequence `(T, C)`, second by second and state by state."""
    x = layer.norm(sequence)
    inner, n = layer.out_proj.in_features, layer.ssm.d_state
    projected = x @ layer.in_proj.weight.T
    padded = torch.cat([torch.zeros(3, inner, dtype=x.dtype), projected[:, :inner]])
    taps = layer.conv.weight[:, 0].T
    y = torch.stack([F.silu((padded[t : t + 4] * taps).sum(0) + layer.conv.bias) for t in range(len(x))])
    state, out = torch.zeros(inner, n, dtype=x.dtype), []
    for t, token in enumerate(y):
        low = layer.ssm.x_proj_weight[0] @ token
        rank = layer.ssm.dt_rank
        delta = F.softplus(layer.ssm.dt_weight[0] @ low[:rank] + layer.ssm.dt_bias[0])[:, None]
        b, c = low[rank : rank + n], low[rank + n :]
        state = (-delta * layer.ssm.A_log[0].exp()).exp() * state + delta * b * token[:, None]
        out.append((state @ c + layer.ssm.D[0] * token) * F.silu(projected[t, inner:]))
    return x + torch.stack(out) @ layer.out_proj.weight.T


def test_mamba_equals_its_definition():
    layer = MambaLayer(6, SSMOptions(d_state=3)).double()
    sequence = random(2, 5, 6)
    for found, one in zip(layer(sequence), sequence, strict=True):
        torch.testing.assert_close(found, slow_mamba(layer, one))
    assert_every_parameter_learns(layer, layer(sequence))


def test_mamba_has_the_parameters_of_mamba_ssm():
    """Its Mamba at d_state 16, d_conv 4, expand 2 has these layers; the norm before it comes on top."""
    c, e, r, n = 256, 512, 16, 16
    layers = 2 * e * c + (4 * e + e) + e * (r + 2 * n) + (r * e + e) + e * n + e + e * c
    layer = MambaLayer(c, SSMOptions())
    assert sum(p.numel() for p in layer.parameters()) == layers + 2 * c == 437_760 + 512


@pytest.mark.parametrize("gates", ["intended", "released"])
def test_encoder_equals_its_definition(maps, audio, gates):
    encoder = SelMEncoder(8, num_layers=2, d_state=4, gates=gates).double()
    found, sound = encoder(maps, audio)
    order = [(t, b) for t in range(3) for b in range(2)]  # frame n = 3 b + t reads the n-th of these

    def run(gate, sequences):
        """Return the gate of each frame: by clip, or as the public code reshapes (T, B, C)."""
        clips = []
        for one in sequences:
            for layer in gate[:2]:
                one = slow_mamba(layer, one)
            clips.append(F.silu(gate[2](one)))
        return torch.stack(clips)

    def read(gate, mixed):
        if not mixed:
            return gate
        return torch.stack([gate[b, t] for t, b in order]).unflatten(0, (2, 3))

    released, back = gates == "released", []
    for i, x in enumerate(maps):
        gate = read(run(encoder.audio[i], audio), released and i > 0)
        torch.testing.assert_close(found[i], x * (1 + gate[:, :, None, None]))
        means = torch.stack([torch.stack([f.flatten(0, 1).mean(0) for f in clip]) for clip in x])
        back.append(read(run(encoder.visual[i], encoder.pooled[i](means)), released))
    torch.testing.assert_close(sound, audio * (1 + sum(back) / 4))
    assert_every_parameter_learns(encoder, [*found, sound])


def test_released_gates_mix_clips_and_change_nothing_for_one(maps, audio):
    one, other = (SelMEncoder(8, 1, 4, gates=gates).double() for gates in ("intended", "released"))
    other.load_state_dict(one.state_dict())
    first = [m[:1] for m in maps]
    for a, b in zip(one(first, audio[:1])[0], other(first, audio[:1])[0], strict=True):
        assert torch.equal(a, b)
    louder = audio.clone()
    louder[1] *= -1
    for encoder, mixed in ((one, False), (other, True)):
        changed = [
            (a - b).abs()[0].max() > 1e-9
            for a, b in zip(encoder(maps, audio)[0], encoder(maps, louder)[0], strict=True)
        ]
        assert changed == [False, mixed, mixed, mixed]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="norm: expected one of .*, got 'batch'"):
        SelMFusion((4, 5, 6, 7), 8, 8, norm="batch")
    with pytest.raises(ValueError, match="gates: expected one of .*, got 'mixed'"):
        SelMEncoder(8, gates="mixed")


# The whole model

# The description's count of the public code (PVT, S4: 112.1 M, with VGGish 184.2 M), in its own parts.
VGGISH, BACKBONE = 72_141_184, {"pvtv2b5": 81_443_008, "r50": 23_508_032}
WIDTHS = {"pvtv2b5": (64, 128, 320, 512), "r50": (256, 512, 1024, 2048)}
DECODER = {("s4", "r50"): 11_633_412, "s4": 14_204_164, "ms3": 14_204_164, "avss": 16_238_595}
# What never learns there and is omitted. DAM: the query and key of one sound, two scalars, two biases before a
# normalisation over the pixels. Decoder, at each level: query and key of one sound, with the query's norm; an MLP that
# does not run, with its norm; the temperature.
DECODER_OMITTED = 3 * (2 * 256 * 256 + 512 + 512 + 262_912 + 1)


def dam(d):
    return 7 * d * d + 1544 * d + 132_354


def dam_omitted(d):
    return 257 * d + 2 * (d * d + d) + 2 + 2 * 256


@pytest.mark.parametrize("path", FULL, ids=lambda p: p.stem)
def test_parameters_at_full_size(path):
    _, backbone, subset, _ = path.stem.split("_")
    with torch.device("meta"):
        model = build(config=path)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    widths = WIDTHS[backbone]
    decoder = DECODER.get((subset, backbone), DECODER[subset])
    assert count["backbone"] == BACKBONE[backbone] and count["audio_encoder"] == VGGISH
    assert count["stage_fusion"] == sum(dam(d) - dam_omitted(d) for d in widths) + 129 * 256 + 512
    assert count["projection"] == sum(256 * d + 256 + 512 for d in widths)
    assert count["encoder"] == 24 * (437_760 + 512) + 12 * 65_792
    assert count["decoder"] + count["head"] == decoder - DECODER_OMITTED
    described = sum(map(dam, widths)) + 33_536 + count["projection"] + count["encoder"] + decoder
    assert sum(count.values()) == pytest.approx(BACKBONE[backbone] + VGGISH + described, rel=0.09)
    published = {("pvtv2b5", "s4"): 112.1, ("pvtv2b5", "avss"): 114.1}.get((backbone, subset))
    assert published is None or (BACKBONE[backbone] + described) / 1e6 == pytest.approx(published, abs=0.06)


def test_configs_train_as_the_authors_do():
    assert len(FULL) == 6
    for path in FULL:
        _, backbone, subset, _ = path.stem.split("_")
        cfg = load_config(str(path))
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr) == ("AdamW", 2e-5)
        assert optimizer.weight_decay == (0.01 if subset == "avss" else 0.05)
        assert not cfg.optim_wrapper.get("clip_grad") and not cfg.get("param_scheduler")
        assert cfg.train_cfg.max_epochs == {"s4": 40, "ms3": 100, "avss": 30}[subset]
        assert cfg.train_dataloader.batch_size == {"s4": 2, "ms3": 1, "avss": 8}[subset]
        size = 224 if subset == "avss" or (subset, backbone) == ("s4", "r50") else 448
        assert cfg.test_dataloader.dataset.pipeline[-1]["size"] == size
        assert list(cfg.model.decoder.sides) == [size // 16, size // 8, size // 4]
        assert size // 4 * 2**cfg.model.head.upsamplings == 224
        hooks = [(h.type, h.epochs, h.part) for h in cfg.get("custom_hooks") or ()]
        assert hooks == ([("FreezeBackbone", 15, "backbone")] if (subset, backbone) == ("ms3", "r50") else [])
        losses = [(c.type, c.loss_weight) for c in cfg.model.losses]
        assert losses == ([("CrossEntropyLoss", 1.0)] if subset == "avss" else [("DiceLoss", 1.0), ("BCELoss", 1.0)])
        assert [tuple(c.weights) for c in cfg.model.matching_losses] == [(0.001, 0.01, 0.1)]
        assert cfg.test_evaluator.convention == "selm" and cfg.model.head.num_classes == (71 if subset == "avss" else 1)


def test_released_options_reach_the_model():
    model = build(RELEASED)
    assert all(stage.norm == "instance" for stage in model.stage_fusion.stages) and model.encoder.gates == "released"
    assert [level.group.test_seed for level in model.decoder.levels] == [0, 1, 2] and model.matching_losses[0].sigmoid
    frames, log_mel = torch.randn(1, 3, 3, 64, 32), torch.randn(1, 3, 1, 96, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(frames, log_mel), model(frames, log_mel))


def test_in_the_published_model_the_sound_reaches_maps_through_gates_and_tokens_alone():
    """The silent branch: maps of the backbone do not hear with the norm over the pixels, the mask does."""
    frames, log_mel = torch.randn(1, 3, 3, 64, 32), torch.randn(1, 3, 1, 96, 64)
    for norm, heard in (("layer", True), ("instance", False)):
        model = build({"model.stage_fusion.norm": norm}).double().eval()
        pair = [(frames.double(), sound.double()) for sound in (log_mel, -log_mel)]
        with torch.no_grad():
            maps = [model.features(*one)[0] for one in pair]
            logits = [model(*one) for one in pair]
        changes = [(a - b).abs().max() for a, b in zip(*maps, strict=True)]
        assert all(c > 1e-4 for c in changes) if heard else all(c < 1e-7 for c in changes)
        assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_hit_maps_of_padded_frames_cost_nothing():
    model = build().eval()
    frames, log_mel, samples = clips([2, 4], labelled=[1, 4])
    whole = model(frames, log_mel, samples, mode="loss")
    assert set(whole) == {"loss_dice", "loss_bce", "loss_hitmap"}
    output = model.masks(frames, log_mel, [2, 4])
    assert all(not hits[0, 2:].any() and hits[0, :2].any() for hits, _ in output.pairs)
    found = HitMapLoss()(
        output.logits,
        [(hits[[0, 1, 1, 1, 1], [0, 0, 1, 2, 3]][None], None) for hits, _ in output.pairs],
        None,
        torch.stack([samples[0].gt_masks[0], *samples[1].gt_masks])[None],
    )
    torch.testing.assert_close(whole["loss_hitmap"], found)


@pytest.mark.parametrize("options", [{}, RELEASED], ids=["sane", "released"])
def test_training_lowers_the_loss(options):
    model = build(options)
    frames, log_mel, samples = clips([2], labelled=[2])
    samples[0].gt_masks = torch.zeros_like(samples[0].gt_masks)
    samples[0].gt_masks[:, 16:48] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(10):
        total = sum(model(frames, log_mel, samples, mode="loss").values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.6 * totals[0]


def test_the_whole_model_is_traced_without_synchronising():
    """Sizes are known without the numbers: on the meta device, whose tensors hold none, forward and backward run."""
    with torch.device("meta"):
        model = build()
        frames, log_mel = torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)
        output = model.masks(frames, log_mel)
        masks = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
        loss = model.matching_losses[0](output.logits, output.pairs, None, masks) + output.logits.mean()
    loss.backward()
    assert output.logits.shape == (2, 3, 1, 64, 32)


def test_the_alignment_compiles_into_one_graph():
    torch._dynamo.reset()
    block, x, audio = DualAlignment(8, 6, "layer"), torch.randn(4, 8, 6, 4), torch.randn(4, 6)
    maps, sound = torch.compile(block, fullgraph=True, backend="aot_eager")(x, audio)
    (maps.sum() + sound.sum()).backward()
    torch.testing.assert_close((maps, sound), block(x, audio))
