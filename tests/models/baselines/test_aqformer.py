"""After AQFormer: ABTI against a slow reference, who sees whom, options, sizes, graphs, padding, training."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from avsmamba.config.load import load_config
from avsmamba.engine.dry_run import dry_run
from avsmamba.models.baselines import AQFormerPixelDecoder
from avsmamba.models.baselines.aqformer import ABTI
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.models.sets import DeformablePixelDecoder, MaskedAttentionDecoder
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests import ROOT
from tests.models.baselines.checks import assert_equal_and_finite, totals_of_training
from tests.models.baselines.test_catr import attend
from tests.models.conftest import assert_every_parameter_learns
from tests.models.test_padding import clips, gradients, refilled

BASELINES = ROOT / "configs" / "baselines"
TINY = BASELINES / "aqformer_tiny_ms3_shapes.yaml"
FULL = sorted(BASELINES.glob("aqformer_*_224.yaml"))
PIXELS = {"num_layers": 1, "num_heads": 2, "ffn_dims": 12}


def build(options=None, config=TINY):
    return MODELS.build(load_config(str(config), options).model)


def encoder(**options):
    """Return a pixel decoder away from its start, where no token chooses what it gathers."""
    module = AQFormerPixelDecoder(8, **PIXELS | options).double()
    for p in module.encoder.parameters():
        nn.init.normal_(p, std=0.3)
    return module


def slow_abti(abti, maps, audio):
    """Run one clip, maps `(T, h_i, w_i, C)` and sounds `(T, C)`, vector by vector."""
    seconds = sine_positions(((len(audio), 1),), audio.shape[-1]).double()
    pixels, places = [], []
    for t, second in enumerate(seconds):
        pixels.append(torch.cat([m[t].flatten(0, 1) for m in maps]))
        spots = [
            sine_positions((tuple(m.shape[1:3]),), m.shape[-1]).double() + level
            for m, level in zip(maps, abti.levels, strict=True)
        ]
        places.append(torch.cat(spots) + second)
    tokens = []
    for sound, frame, place in zip(audio, pixels, places, strict=True):
        for start in abti.tokens:
            tokens.append(abti.norm1(start + sound + attend(abti.cross, start + sound, frame + place, frame)))
    count = len(abti.tokens)
    own = seconds.repeat_interleave(count, 0)
    tokens = torch.stack(tokens)
    placed = tokens + own
    tokens = torch.stack(
        [abti.norm2(x + attend(abti.self_attention, q, placed, tokens)) for x, q in zip(tokens, placed, strict=True)]
    )
    tokens = abti.norm3(tokens + abti.ffn(tokens))
    frames = []
    for t, (frame, place) in enumerate(zip(pixels, places, strict=True)):
        seen = slice(t * count, (t + 1) * count) if abti.context == "frame" else slice(None)
        keys, values = (tokens + own)[seen], tokens[seen]
        frames.append(
            torch.stack(
                [abti.norm4(x + attend(abti.to_pixels, x + p, keys, values)) for x, p in zip(frame, place, strict=True)]
            )
        )
    parts = torch.stack(frames).split([m.shape[1] * m.shape[2] for m in maps], 1)
    return [p.unflatten(1, m.shape[1:3]) for p, m in zip(parts, maps, strict=True)]


@pytest.mark.parametrize(("num_tokens", "context"), [(1, "clip"), (3, "clip"), (1, "frame"), (2, "frame")])
def test_abti_equals_its_definition(num_tokens, context):
    abti = ABTI(8, 2, 12, 0.1, num_tokens, context).double().eval()
    maps = [torch.randn(2, 3, h, w, 8, dtype=torch.float64) for h, w in ((4, 2), (2, 1), (1, 1))]
    audio = torch.randn(2, 3, 8, dtype=torch.float64)
    found = abti(maps, audio)
    for b in range(2):
        for x, y in zip(found, slow_abti(abti, [m[b] for m in maps], audio[b]), strict=True):
            torch.testing.assert_close(x[b], y)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(("num_tokens", "context"), [(1, "clip"), (2, "frame")])
def test_every_parameter_of_the_encoder_learns(maps, audio, place, num_tokens, context):
    module = encoder(place=place, num_tokens=num_tokens, context=context)
    found, sound = module(maps, audio)
    assert [m.shape for m in found] == [m.shape for m in maps] and sound is audio
    assert_every_parameter_learns(module, found)


def test_place_of_the_abti(maps, audio):
    plain = DeformablePixelDecoder(8, **PIXELS).double()
    before, after = encoder(place="before"), encoder(place="after")
    for module in (plain, after):
        module.load_state_dict(before.state_dict(), strict=module is not plain)
    abti = before.interaction
    for x, y in zip(before(maps, audio)[0], plain([maps[0], *abti(maps[1:], audio)]), strict=True):
        torch.testing.assert_close(x, y)
    fine, *coarse = plain.encoder(maps)
    for x, y in zip(after(maps, audio)[0], plain.with_mask_features([fine, *abti(coarse, audio)]), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("context", ["clip", "frame"])
def test_who_hears_and_sees_whom(maps, audio, place, context):
    """Each second's sound and each frame reach all frames of their clip, mask features included, and no other clip."""
    module = encoder(place=place, context=context).eval()

    def changed(new_maps, new_audio):
        new, old = module(new_maps, new_audio)[0], module(maps, audio)[0]
        return [(x - y).abs().flatten(2).amax(-1) for x, y in zip(new, old, strict=True)]

    louder = audio.clone()
    louder[0, 2] += torch.randn(8, dtype=torch.float64)
    other = [m.clone() for m in maps]
    other[3][0, 1] += torch.randn(8, dtype=torch.float64)
    for difference in (*changed(maps, louder), *changed(other, audio)):
        assert difference[0].min() > 1e-9 and difference[1].max() == 0


@pytest.mark.parametrize("context", ["clip", "frame"])
def test_frames_of_one_picture_differ_by_their_sound(maps, audio, context):
    same = [m[:, :1].expand(-1, 3, -1, -1, -1) for m in maps]
    features = encoder(context=context).eval()(same, audio)[0][0]
    assert (features[:, 0] - features[:, 1]).abs().amax() > 1e-3


def test_one_frame_and_wrong_arguments(maps, audio):
    alone, _ = encoder().eval()([m[:, :1] for m in maps], audio[:, :1])
    assert all(torch.isfinite(m).all() for m in alone)
    with pytest.raises(ValueError, match=r"context: expected one of \['clip', 'frame'\], got 'video'"):
        AQFormerPixelDecoder(8, context="video")
    with pytest.raises(ValueError, match=r"place: expected one of \['after', 'before'\], got 'inside'"):
        AQFormerPixelDecoder(8, place="inside")
    with pytest.raises(ValueError, match="num_tokens: expected at least 1, got 0"):
        AQFormerPixelDecoder(8, num_tokens=0)
    with pytest.raises(UserError, match=r"model\.encoder\.place: expected one of"):
        load_config(str(TINY), {"model.encoder.place": "inside"})


def test_an_exported_encoder_takes_other_numbers_of_frames(maps, audio):
    module, frames = encoder().eval(), torch.export.Dim("frames", min=1, max=80)
    program = torch.export.export(module, (maps, audio), dynamic_shapes=([{1: frames}] * 4, {1: frames})).module()
    for t in (3, 1, 5):
        clip = [torch.randn(2, t, *m.shape[2:], dtype=torch.float64) for m in maps]
        sounds = torch.randn(2, t, 8, dtype=torch.float64)
        torch.testing.assert_close(program(clip, sounds), module(clip, sounds))


def test_abti_compiles_into_one_graph(maps, audio):
    abti = ABTI(8, 2, 12, 0.0).double()
    torch._dynamo.reset()
    compiled = torch.compile(abti, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps[1:], audio), abti(maps[1:], audio))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_waits_for_the_device(device):
    with FakeTensorMode(), torch.device(device):
        maps = [torch.empty(2, 3, 64 // s, 32 // s, 8) for s in (4, 8, 16, 32)]
        for context in ("clip", "frame"):
            found, _ = AQFormerPixelDecoder(8, **PIXELS, context=context)(maps, torch.empty(2, 3, 8))
            assert [m.device.type for m in found] == [device] * 4


def test_parameters_at_full_size():
    """Mask2Former's parts as published (tests/models/sets), the audio's layer, and one ABTI of 1.3 M.

    No count is published: AQFormer's own is not known to us.
    """
    attention, c, ffn = 4 * (256 * 256 + 256), 256, 1024
    abti = 3 * attention + (2 * c * ffn + ffn + c) + 4 * 2 * c + 3 * c + c
    for backbone, channels in (("pvtv2b5", (64, 128, 320, 512)), ("r50", (256, 512, 1024, 2048))):
        config = load_config(str(BASELINES / f"aqformer_{backbone}_ms3_224.yaml"))
        with torch.device("meta"):
            model, plain = MODELS.build(config.model), DeformablePixelDecoder()
            decoder = MaskedAttentionDecoder(audio="none")
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
        assert parts["encoder"] == sum(p.numel() for p in plain.parameters()) + abti
        assert parts["decoder"] == sum(p.numel() for p in decoder.parameters()) + 256 * 257
        assert parts["projection"] == sum(c * 256 + 3 * 256 for c in channels) + 129 * 256
        trained = sum(parts.values()) - parts["audio_encoder"]
        assert round(trained / 1e6, 2) == {"pvtv2b5": 102.63, "r50": 45.42}[backbone]


@pytest.mark.parametrize("path", FULL, ids=lambda p: p.stem)
def test_configs_train_as_the_nearest_public_code_does(path):
    assert len(FULL) == 4
    cfg = load_config(str(path))
    wrapper, data = cfg.optim_wrapper, cfg.train_dataloader
    assert (wrapper.optimizer.type, wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == ("AdamW", 1e-4, 0.05)
    assert wrapper.clip_grad.max_norm == 0.01 and wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    clips_of, iterations = (296, 40_000) if "ms3" in path.stem else (3452, 45_000)
    assert data.batch_size == 2 and cfg.train_cfg.max_epochs == round(iterations / (clips_of / 2))
    assert cfg.param_scheduler[0].end == cfg.train_cfg.max_epochs
    assert cfg.test_dataloader.dataset.pipeline[-1]["size"] == 224
    (loss,) = cfg.model.set_losses
    assert (loss.class_weight, loss.mask_weight, loss.dice_weight, loss.no_object_weight) == (2, 5, 5, 0.1)


@pytest.mark.parametrize("amp", [False, True])
def test_a_training_step_does_not_wait_for_the_device(amp):
    names = dry_run(load_config(str(TINY)), amp=amp).losses
    assert len(names) == 3 * 4 and "d2.loss_set_dice" in names


@pytest.mark.parametrize("options", [{}, {"model.encoder.context": "frame", "model.encoder.place": "after"}])
def test_every_parameter_of_the_tiny_model_learns(options):
    model = build(options)
    for layer in model.encoder.encoder.layers:
        nn.init.normal_(layer.attention.offsets.weight, std=0.1)  # 0 at the start
    losses = model(*clips([3, 3], labelled=[1, 3]), mode="loss")
    assert set(losses) == {f"{d}loss_set_{n}" for d in ("", "d0.", "d1.", "d2.") for n in ("class", "mask", "dice")}
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [n for n in blind if not n.startswith("audio_encoder")]


@pytest.mark.parametrize("options", [{}, {"model.encoder.context": "frame", "model.encoder.num_tokens": 2}])
def test_padding_changes_no_gradient(options):
    model = build(options)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = gradients(model, clips([2, 4], labelled=[1, 4]))
    model.load_state_dict(state)
    after = gradients(model, refilled(*clips([2, 4], labelled=[1, 4]), float("nan")))
    assert_equal_and_finite(before, after)


def test_training_lowers_the_loss(shapes):
    totals = totals_of_training(build(), shapes, steps=20)
    assert totals[-1] < 0.7 * totals[0]
