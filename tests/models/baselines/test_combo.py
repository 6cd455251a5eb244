"""COMBO: fusion, queries, head and loss against slow references, what is read, gradients, padding, training."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from torch._subclasses.fake_tensor import FakeTensorMode

from avsmamba.config.check import check_config
from avsmamba.config.load import load_config
from avsmamba.engine.dry_run import dry_run
from avsmamba.models.baselines import COMBODecoder, COMBOEncoder, COMBOHead, COMBOProjection, InterFrameLoss
from avsmamba.models.baselines.combo import BilateralFusion
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.models.sets import QueryMasks
from avsmamba.registry import MODELS
from tests import ROOT
from tests.models.baselines.checks import (
    assert_equal_and_finite,
    assert_gradients_are_finite_in_bfloat16,
    totals_of_training,
)
from tests.models.conftest import assert_every_parameter_learns
from tests.models.test_padding import clips, gradients, refilled
from tests.models.test_segmentor import SEMANTIC, sample

BASELINES = ROOT / "configs" / "baselines"
TINY = BASELINES / "combo_tiny_ms3_shapes.yaml"
FULL = sorted(BASELINES.glob("combo_*_224.yaml"))
CHANNELS = {"pvtv2b5": (64, 128, 320, 512), "r50": (256, 512, 1024, 2048)}
BACKBONES = {"pvtv2b5": 81_443_008, "r50": 23_508_032}
PIXELS = {"num_layers": 1, "num_heads": 2, "ffn_dims": 6, "fusion_heads": 2}
DECODER = {"num_queries": 5, "num_layers": 3, "num_heads": 2, "ffn_dims": 6, "audio_dims": (7, 9)}


def build(options=None, config=TINY):
    return MODELS.build(load_config(str(config), options).model)


def slow_fusion(fusion, features, audio):
    """Fuse one frame `(h, w, C)` and its sound `(C_a,)`, pixel by pixel and head by head."""
    h, w, channels = features.shape
    places = sine_positions(((h, w),), channels).double()
    pixels = [fusion.visual_norm(p + fusion.level) for p in features.flatten(0, 1)]
    sound = fusion.audio_norm(audio)
    key, value = fusion.key(sound + fusion.audio_position), fusion.audio_value(sound)
    width = channels // fusion.num_heads
    heard, seen = [torch.zeros(channels).double() for _ in pixels], torch.zeros(channels).double()
    for head in range(fusion.num_heads):
        s = slice(head * width, (head + 1) * width)
        weights = [
            ((fusion.query(p + place)[s] * key[s]).sum() / width**0.5).exp()
            for p, place in zip(pixels, places, strict=True)
        ]
        for i, (p, weight) in enumerate(zip(pixels, weights, strict=True)):
            share = weight / sum(weights)
            heard[i][s] = share * value[s]
            seen[s] += share * fusion.visual_value(p)[s]
    out = [p + fusion.visual_scale * fusion.to_visual(x) for p, x in zip(pixels, heard, strict=True)]
    return torch.stack(out).unflatten(0, (h, w)), sound + fusion.audio_scale * fusion.to_audio(seen)


@pytest.fixture
def fusion():
    module = BilateralFusion(8, 6, 2, 0.1, 1e-4).double().eval()
    for p in module.parameters():
        torch.nn.init.normal_(p)
    return module


def test_fusion_equals_its_definition(fusion):
    features, audio = torch.randn(2, 3, 4, 8, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    found = fusion(features, audio)
    for n in range(2):
        for x, y in zip(found, slow_fusion(fusion, features[n], audio[n]), strict=True):
            torch.testing.assert_close(x[n], y)
    assert_every_parameter_learns(fusion, found)


def test_fusion_starts_near_the_normalised_inputs_and_drops_weights_in_training():
    fusion = BilateralFusion(8, 6, 2, 0.5, 1e-4).double()
    features, audio = torch.randn(2, 3, 4, 8, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    first, second = fusion(features, audio), fusion(features, audio)
    assert all(not torch.equal(x, y) for x, y in zip(first, second, strict=True))
    pixels = F.layer_norm(features + fusion.level, (8,))
    for x, y in zip(first, (pixels, F.layer_norm(audio, (6,))), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match="fusion_heads: 3 heads do not divide 8"):
        BilateralFusion(8, 6, 3, 0.1, 1e-4)


def parts(**decoder):
    projection = COMBOProjection((4, 5, 6, 7), 6, 8)
    encoder = COMBOEncoder(8, 6, **PIXELS, layer_scale=1.0)
    return torch.nn.ModuleList([projection, encoder, COMBODecoder(8, 6, **DECODER, **decoder)]).double().eval()


@pytest.fixture
def inputs():
    maps = [torch.randn(6, 2 + i, 64 >> i, 32 >> i, dtype=torch.float64) for i in (2, 3, 4, 5)]
    return maps, torch.randn(2, 3, 6, dtype=torch.float64)


@pytest.mark.parametrize("audio_per_query", ["own_frame", "released"])
def test_parts_fit_and_every_parameter_learns(inputs, audio_per_query):
    projection, encoder, decoder = parts(audio_per_query=audio_per_query)
    torch.nn.init.normal_(encoder.pixel_decoder.encoder.layers[0].attention.weights.weight)  # 0 at the start
    maps, sound = projection(*inputs)
    assert torch.equal(sound, inputs[1])
    fused, heard = encoder(maps, sound)
    assert [m.shape for m in fused] == [(2, 3, 64 // s, 32 // s, 8) for s in (4, 8, 16, 32)]
    assert heard.shape == (2, 3, 6)
    layers = decoder(fused, heard)
    assert [q.masks.shape for q in layers] == [(2, 3, 5, 16, 8)] * 4
    learned = torch.nn.ModuleList([projection.visual, encoder, decoder])
    assert_every_parameter_learns(learned, [t for layer in layers for t in layer])


def test_the_fusion_is_of_mask_features_and_audio_alone(inputs):
    """Each frame with its own sound; the coarser maps do not hear."""
    projection, encoder, _ = parts()
    maps, sound = projection(*inputs)
    before, heard = encoder(maps, sound)
    sound[0, 2] += torch.randn(6, dtype=torch.float64)
    after, changed = encoder(maps, sound)
    assert all(torch.equal(x, y) for x, y in zip(before[1:], after[1:], strict=True))
    for x, y in ((before[0], after[0]), (heard, changed)):
        different = (x - y).flatten(2).abs().amax(-1) > 0
        assert different.tolist() == [[False, False, True], [False, False, False]]
    with pytest.raises(ValueError, match="audio_channels: the encoder has 6, the audio 5"):
        encoder(maps, sound[..., :5])


@pytest.mark.parametrize("audio_per_query", ["own_frame", "released"])
@pytest.mark.parametrize("frames", [1, 3, 7])
def test_which_sound_a_query_receives(audio_per_query, frames):
    decoder = COMBODecoder(8, 6, **DECODER, audio_per_query=audio_per_query).double()
    audio = torch.randn(frames, 6, dtype=torch.float64)
    found = decoder.initial_queries(audio)
    assert found.shape == (frames, 5, 8)
    for n in range(frames):
        for q in range(5):
            source = n if audio_per_query == "own_frame" else (q * frames + n) // 5
            torch.testing.assert_close(found[n, q], decoder.content[q] + decoder.audio(audio[source]))


def test_as_released_a_clip_hears_the_others_of_its_batch(inputs):
    projection, encoder, decoder = parts(audio_per_query="released")
    own = parts()[2]
    own.load_state_dict(decoder.state_dict())
    fused, heard = encoder(*projection(*inputs))
    other = heard.clone()
    other[1] += 1
    for module, same in ((own, True), (decoder, False)):
        before, after = module(fused, heard)[-1], module(fused, other)[-1]
        assert torch.equal(before.masks[0], after.masks[0]) == same
        assert not torch.equal(before.masks[1], after.masks[1])
    with pytest.raises(ValueError, match="audio_per_query: expected one of"):
        COMBODecoder(8, 6, audio_per_query="own")


def test_head_with_the_background_as_a_class():
    """The sigmoid of the logit is the softmax of both classes' scores, as the public evaluation takes it."""
    query = QueryMasks(*(torch.randn(2, 3, 5, *size, dtype=torch.float64) for size in ((8,), (4, 6))))
    head = COMBOHead(8, 1, background_class=True).double()
    out = head(query, None)
    classes, masks = out.queries
    assert classes.shape == (2, 3, 5, 3) and out.logits.shape == (2, 3, 1, 4, 6)
    score = sum(classes[:, :, q].softmax(-1)[..., :2, None, None] * masks[:, :, q, None].sigmoid() for q in range(5))
    torch.testing.assert_close(out.logits[:, :, 0].sigmoid(), score.softmax(2)[:, :, 1])
    assert head.eval()(query, None).logits.shape == (2, 3, 1, 16, 24)
    assert COMBOHead(8, 1).double()(query, None).queries[0].shape == (2, 3, 5, 2)
    with pytest.raises(ValueError, match="background_class: is for one class, got num_classes 71"):
        COMBOHead(8, 71, background_class=True)


def layers(*masks):
    return [(torch.zeros(*m.shape[:3], 2), m) for m in masks]


def slow_loss(masks, counts, group=None):
    """Return the mean over the pairs of existing neighbours, by torch's cosine loss."""
    values = []
    for clip, count in zip(masks, counts, strict=True):
        for t in range(count - 1):
            if group is None or (t + 1) % group:
                pair = (clip[t].flatten()[None], clip[t + 1].flatten()[None])
                d = F.cosine_embedding_loss(*pair, torch.ones(1, dtype=clip.dtype))
                values.append(d * torch.exp(-d))
    return sum(values) / len(values)


@pytest.mark.parametrize("group", [None, 3])
def test_loss_equals_its_definition(group):
    """Of clips of four and five frames, padded by zeros as AVSSegmentor does."""
    first, second = (torch.randn(3, 5, 4, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    masks = [torch.cat([m[:, :4], m[:, 4:] * torch.tensor([1, 0, 1.0])[:, None, None, None, None]], 1)
             for m in (first, second)]  # fmt: skip
    loss = InterFrameLoss(10.0, group)
    found = loss(layers(*masks, first), [], [[]] * 3, (3, 2))
    assert [*map(list, found)] == [["loss_inter_frame"], ["loss_inter_frame"], []]
    expected = [10 * slow_loss(m, (5, 4, 5), group) for m in masks]
    for x, y, leaf in zip(found, expected, (first, second), strict=False):
        torch.testing.assert_close(x["loss_inter_frame"], y)
        gradient, wanted = (torch.autograd.grad(z, leaf, retain_graph=True)[0] for z in (x["loss_inter_frame"], y))
        torch.testing.assert_close(gradient, wanted)
    assert torch.autograd.gradcheck(loss.difference, (first,))


def test_loss_without_pairs_and_without_layers():
    single = torch.randn(2, 1, 4, 3, 2, requires_grad=True)
    loss = InterFrameLoss()
    found = loss(layers(single, single))[0]["loss_inter_frame"]
    found.backward()
    assert found == 0 and not single.grad.any()
    with pytest.raises(ValueError, match="deep_supervision: InterFrameLoss needs the layers before"):
        loss(layers(single))
    with FakeTensorMode():
        assert loss(layers(torch.randn(2, 3, 4, 3, 2), torch.randn(2, 3, 4, 3, 2)))[0]["loss_inter_frame"].shape == ()


def described(channels, num_classes):
    """Count the public code's parameters outside of the backbones and VGGish by its description, without maskiges."""
    linear = 256 * 256 + 256
    projection = sum(c * 256 + 256 + 512 for c in channels[1:]) + channels[0] * 256 + 512
    gathering = 2 * linear + 257 * 192 + 257 * 96
    encoder = 6 * (gathering + 2 * 512 + 256 * 1024 + 1024 + 1024 * 256 + 256) + 3 * 256
    upwards = 9 * 256 * 256 + 512 + linear
    layer = 8 * linear + 3 * 512 + 256 * 2048 + 2048 + 2048 * 256 + 256
    decoder = 9 * layer + 512 + 2 * 100 * 256 + 3 * 256 + 3 * linear
    fusion = 3 * linear + 2 * (128 * 256 + 256) + 256 * 128 + 128 + 512 + 256 + 2 * (256 + 128)
    mlp = 128 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 256 + 256
    return projection + encoder + upwards + decoder + fusion + mlp + 257 * (num_classes + 1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("subset", "options", "classes"),
    [("ms3", {}, 1), ("s4", {"model.head.background_class": True}, 2), ("avss", {}, 71)],
)
def test_parameters_at_full_size(backbone, subset, options, classes):
    """The public code's count, but for the bias of one 1 x 1 convolution, which Mask2Former does not have."""
    config = load_config(str(BASELINES / f"combo_{backbone}_{subset}_224.yaml"), options)
    with torch.device("meta"):
        model = MODELS.build(config.model)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count["backbone"] == BACKBONES[backbone] and round(count["audio_encoder"] / 1e6, 1) == 72.1
    assert sum(count.values()) - count["backbone"] - count["audio_encoder"] == 256 + described(
        CHANNELS[backbone], classes
    )


def test_configs_train_as_the_authors_do():
    assert len(FULL) == 6
    for path in FULL:
        cfg = load_config(str(path))
        _, _, subset, _ = path.stem.split("_")
        optim = cfg.optim_wrapper
        assert (optim.optimizer.type, optim.optimizer.lr, optim.optimizer.weight_decay) == ("AdamW", 1e-4, 0.05)
        assert optim.paramwise_cfg.custom_keys.backbone == {"lr_mult": 0.1} and optim.clip_grad.max_norm == 0.01
        assert cfg.train_cfg == {
            "by_epoch": False,
            "max_iters": 20_000 if subset == "ms3" else 90_000,
            "val_interval": 400 if subset == "ms3" else 5000,
        }
        assert cfg.train_dataloader.batch_size == 8 and not cfg.get("custom_hooks")
        assert cfg.train_dataloader.sampler.type == "InfiniteSampler"
        assert cfg.test_dataloader.dataset.pipeline[-1]["size"] == 224
        assert [(c.type, c.get("loss_weight")) for c in cfg.model.set_losses] == [
            ("SetLoss", None), ("InterFrameLoss", 10.0),
        ]  # fmt: skip
        assert cfg.model.head.num_classes == (71 if subset == "avss" else 1)
        crops = [t for t in cfg.train_dataloader.dataset.pipeline if t.type == "RandomSizeCrop"]
        assert len(crops) == (subset != "avss")
        for crop in crops:
            scales = [x for x in range(5, 21) if x >= 10]
            assert crop.sides == [int(x * 0.1 * 224) for x in scales] and crop.prob == len(scales) / 16


def test_learned_queries_and_norms_do_not_decay():
    cfg = load_config(str(BASELINES / "combo_r50_ms3_224.yaml")).optim_wrapper
    model = build()
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    decay, rate = ({id(g["params"][0]): g[k] for g in groups} for k in ("weight_decay", "lr"))
    free = {n for n, p in model.named_parameters() if decay[id(p)] == 0}
    norms = {
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm | torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
        and not name.startswith("backbone")
        for kind in ("weight", "bias")
    }
    learned = {f"decoder.{n}" for n in ("content", "positions", "levels")}
    assert free == norms | learned | {"encoder.fusion.level", "encoder.fusion.audio_position"}
    for name, p in model.named_parameters():
        assert rate[id(p)] == pytest.approx(1e-5 if name.startswith("backbone") else 1e-4)


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


@pytest.mark.parametrize("options", [{}, {"model.head.background_class": True}], ids=["one", "two"])
def test_every_parameter_of_the_tiny_model_learns(options):
    model = build(options)
    for layer in model.encoder.pixel_decoder.encoder.layers:
        torch.nn.init.normal_(layer.attention.weights.weight)  # 0 at the start
    frames, log_mel = torch.randn(2, 4, 3, 64, 32), torch.randn(2, 4, 1, 96, 64)
    losses = model(frames, log_mel, [sample(4, labelled=[True, False, False, False])] * 2, mode="loss")
    names = {f"loss_set_{n}" for n in ("class", "mask", "dice")}
    assert set(losses) == names | {f"d{i}.{n}" for i in range(3) for n in (*names, "loss_inter_frame")}
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [n for n in blind if not n.startswith("audio_encoder")]
    assert model.eval()(torch.randn(1, 4, 3, 64, 32), torch.randn(1, 4, 1, 96, 64)).shape == (1, 4, 1, 64, 32)


def test_in_s4_frames_without_a_label_are_compared_too():
    model = build().eval()
    frames, log_mel = torch.randn(1, 3, 3, 64, 32, requires_grad=True), torch.randn(1, 3, 1, 96, 64)
    losses = model(frames, log_mel, [sample(3, labelled=[True, False, False])], mode="loss")
    for kind, labelled_alone in (("loss_set", True), ("loss_inter_frame", False)):
        total = sum(v for name, v in losses.items() if kind in name)
        gradient = torch.autograd.grad(total, frames, retain_graph=True)[0][0].flatten(1).abs().amax(1) > 0
        assert gradient.tolist() == [True, not labelled_alone, not labelled_alone]


FOUR = {"model.head.num_classes": 4, **SEMANTIC}


@pytest.mark.parametrize("audio_per_query", ["own_frame", "released"])
def test_padding_changes_no_gradient(audio_per_query):
    """Points are random: both passes draw the same ones."""
    model = build(FOUR | {"model.decoder.audio_per_query": audio_per_query})
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)
    before = gradients(model, clips([2, 4], labelled=[1, 4]))
    model.load_state_dict(state)
    torch.manual_seed(1)
    after = gradients(model, refilled(*clips([2, 4], labelled=[1, 4]), float("nan")))
    assert_equal_and_finite(before, after)


def test_padding_is_in_no_pair_of_frames():
    """Of clips of two and four frames: the mean over one and three pairs of the clips alone."""
    model = build(FOUR).eval()
    frames, log_mel, samples = clips([2, 4], labelled=[1, 4])
    whole = model(frames, log_mel, samples, mode="loss")
    alone = [
        model.set_losses[1].difference(model.extract(frames[b : b + 1, :n], log_mel[b : b + 1, :n])[0][0].masks)
        for b, n in ((0, 2), (1, 4))
    ]
    expected = 10 * (alone[0] + 3 * alone[1]) / 4
    torch.testing.assert_close(whole["d0.loss_inter_frame"], expected, rtol=1e-4, atol=1e-5)


def test_mixed_precision_trains():
    assert_gradients_are_finite_in_bfloat16(build(), labelled=[3, 3])


def test_dry_run():
    cfg = load_config(str(TINY), {f"model.{part}.num_layers": 1 for part in ("encoder", "decoder")})
    check_config(cfg)
    assert len(dry_run(cfg).losses) == 7


@pytest.mark.parametrize(
    "options",
    [{}, {"model.head.background_class": True}, {"model.decoder.audio_per_query": "released"}],
    ids=["sane", "background", "released"],
)
def test_training_lowers_the_loss(shapes, options):
    totals = totals_of_training(build(options), shapes, steps=12)
    assert totals[-1] < 0.8 * totals[0]
