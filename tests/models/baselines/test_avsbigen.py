"""AVSBiGen: correlation, motion and generation against slow references, what depends on what, sizes, training."""

import pytest
import torch
import torch.nn.functional as F

from avsmamba.config.load import load_config
from avsmamba.datasets.avsbench import AVSBenchMS3
from avsmamba.models.baselines import AVSBiGenEncoder, AVSBiGenPyramid, GenerationLoss
from avsmamba.models.baselines.avsbigen import Correlation, ImplicitMotion
from avsmamba.registry import MODELS
from tests import ROOT
from tests.models.baselines.checks import assert_equal_and_finite, assert_gradients_are_finite_in_bfloat16
from tests.models.conftest import assert_every_parameter_learns
from tests.models.test_padding import clips, gradients, refilled

BASELINES = ROOT / "configs" / "baselines"
TINY = BASELINES / "avsbigen_tiny_ms3_shapes.yaml"
TINY_S4 = BASELINES / "avsbigen_tiny_s4_shapes.yaml"
FULL = sorted(BASELINES.glob("avsbigen_*_224.yaml"))


def build(options=None, config=TINY):
    return MODELS.build(load_config(str(config), options).model)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def convolved(x, conv):
    """Convolve `(C, h, w)` as a sum over shifted maps."""
    k = conv.kernel_size[0] // 2
    padded, (h, w) = F.pad(x, (k, k, k, k)), x.shape[1:]
    taps = [(i, j) for i in range(2 * k + 1) for j in range(2 * k + 1)]
    y = sum(torch.einsum("oc,chw->ohw", conv.weight[:, :, i, j], padded[:, i : i + h, j : j + w]) for i, j in taps)
    return y + conv.bias.view(-1, 1, 1)


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def test_correlation_equals_its_definition():
    module = Correlation(6, 4, 3).double()
    visual, audio = randn(2, 3, 5, 4, 6), randn(2, 3, 6)
    found = module(visual, audio)
    for b in range(2):
        for t in range(3):
            v = visual[b, t] / visual[b, t].square().sum(-1, keepdim=True).sqrt()
            product = (v * (audio[b, t] / audio[b, t].square().sum().sqrt())).permute(2, 0, 1)
            for conv in module.convs:
                product = convolved(product, conv)
            torch.testing.assert_close(found[b, t], v * (1 + sigmoid(product[0])[..., None]))


@pytest.mark.parametrize("num_frames", [1, 2, 4])
@pytest.mark.parametrize("grad_checkpointing", [False, True])
def test_motion_equals_its_definition(num_frames, grad_checkpointing):
    module = ImplicitMotion(grad_checkpointing).double()
    visual = randn(2, num_frames, 3, 2, 5)
    found = module(visual)
    for b in range(2):
        for t in range(num_frames):
            other = t + 1 if t + 1 < num_frames else max(0, t - 1)
            there = visual[b, other].reshape(-1, 5)
            for y in range(3):
                for x in range(2):
                    pixel = visual[b, t, y, x]
                    mean = sum(max(0.0, float(pixel @ p)) for p in there) / len(there)
                    gate = sigmoid(mean * module.gate.weight[0, 0] + module.gate.bias[0])
                    torch.testing.assert_close(found[b, t, y, x], pixel * (1 + gate))


def test_a_clip_of_one_frame_counts_as_one_in_which_nothing_moves():
    module, frame = ImplicitMotion(False).double(), randn(2, 1, 3, 2, 5)
    twice = module(frame.repeat(1, 2, 1, 1, 1))
    torch.testing.assert_close(twice[:, :1], module(frame))
    torch.testing.assert_close(twice[:, 1:], module(frame))


def test_grad_checkpointing_changes_no_gradient(maps, audio):
    encoder = AVSBiGenEncoder(8, 4, 3).double()
    found = []
    for recompute in (False, True):
        for motion in encoder.motions:
            motion.grad_checkpointing = recompute
        inputs = [m.clone().requires_grad_() for m in maps]
        sum(y.square().sum() for y in encoder(inputs, audio)[0]).backward()
        found.append([x.grad for x in (*inputs, *encoder.parameters())])
        encoder.zero_grad()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_which_frames_and_sounds_change_an_output(maps, audio):
    """A frame depends on itself and on the next one (the last on the one before), and on their sounds alone."""
    encoder, pyramid = AVSBiGenEncoder(8, 4, 3).double(), AVSBiGenPyramid(8).double().eval()

    def run():
        features = pyramid(*encoder(maps, audio))
        return features.mask_features.detach()

    def changed(before):
        return ((run() - before).abs().flatten(2).amax(-1) > 0).tolist()

    before = run()
    audio[0, 1] += randn(8)
    assert changed(before) == [[True, True, True], [False] * 3]
    before = run()
    audio[0, 0] += randn(8)
    assert changed(before) == [[True, False, False], [False] * 3]
    before = run()
    maps[2][1, 2] += randn(*maps[2].shape[2:])
    assert changed(before) == [[False] * 3, [False, True, True]]
    still = AVSBiGenEncoder(8, 4, 3, motion=False).double()
    before = still(maps, audio)[0][0].detach()
    audio[1, 2] += randn(8)
    moved = (still(maps, audio)[0][0] - before).abs().flatten(2).amax(-1) > 0
    assert moved.tolist() == [[False] * 3, [False, False, True]]


def test_encoder_and_pyramid_learn_and_pass_the_sound_on(maps, audio):
    encoder, pyramid = AVSBiGenEncoder(8, 4, 3).double(), AVSBiGenPyramid(8).double()
    fused, sound = encoder(maps, audio)
    assert encoder.reads_audio and sound is audio
    features = pyramid(fused, sound)
    assert features.mask_features.shape == (2, 3, 32, 16, 8)
    assert all(v is m and a is audio for (v, a), m in zip(features.pairs, fused, strict=True))
    assert_every_parameter_learns(torch.nn.ModuleList([encoder, pyramid]), features.mask_features)


def slow_generation(loss, logits, visual, audio, flags, masks):
    """Compute the loss frame by frame, for a map of the grid's size."""
    distances = []
    for b in range(len(visual)):
        for t in range(visual.shape[1]):
            if (flags is not None and not flags[b, t]) or not audio[b, t].any():
                continue
            full = {"ground_truth": masks[b, t] > 0, "logits": logits[b, t, 0], "probability": sigmoid(logits[b, t, 0])}
            mask, (h, w) = full[loss.mask].double(), visual.shape[2:4]
            cells = mask.reshape(h, mask.shape[0] // h, w, mask.shape[1] // w).mean((1, 3))
            x = (visual[b, t] * cells[..., None]).permute(2, 0, 1)
            for conv in loss.convs:
                x = convolved(x, conv)
            made = x.flatten(1) @ loss.join.weight[0] + loss.join.bias
            distance = made / made.square().sum().sqrt() - audio[b, t] / audio[b, t].square().sum().sqrt()
            distances.append(distance.square().sum().sqrt())
    return loss.loss_weight * sum(distances) / max(1, len(distances))


@pytest.mark.parametrize("mask", ["ground_truth", "logits", "probability"])
def test_generation_equals_its_definition(mask):
    loss = GenerationLoss(5, 6, 4, grid=2, mask=mask, loss_weight=0.5).double()
    logits, visual, audio = randn(2, 3, 1, 16, 12), randn(2, 3, 2, 2, 5), randn(2, 3, 6)
    audio[1, 2] = 0
    masks = torch.randint(0, 3, (2, 3, 8, 4), dtype=torch.uint8)
    flags = torch.tensor([[True, False, True], [False, True, True]])
    pairs = [(randn(2, 3, 4, 4, 5), audio), (visual, audio)]
    found = loss(logits, pairs, flags, masks)
    expected = slow_generation(loss, logits, visual, audio, flags if mask == "ground_truth" else None, masks)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mask", ["ground_truth", "logits", "probability"])
def test_what_generation_teaches(mask):
    """Its own parameters and the map, the logits where they are the mask, never the sound."""
    loss = GenerationLoss(5, 6, 4, grid=3, mask=mask)
    logits, visual, audio = (torch.randn(s, requires_grad=True) for s in ((1, 2, 1, 8, 8), (1, 2, 2, 2, 5), (1, 2, 6)))
    masks = torch.ones(1, 2, 8, 8, dtype=torch.uint8)
    loss(logits, [(visual, audio)], torch.tensor([[True, False]]), masks).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert audio.grad is None
    assert (logits.grad is None) == (mask == "ground_truth")
    assert visual.grad[0, 0].abs().sum() > 0
    assert (visual.grad[0, 1].abs().sum() > 0) == (mask != "ground_truth")


def test_generation_without_a_frame_that_counts():
    loss = GenerationLoss(5, 6, 4, grid=2)
    arguments = torch.zeros(1, 2, 1, 8, 8), [(torch.randn(1, 2, 2, 2, 5), torch.randn(1, 2, 6))]
    value = loss(*arguments, torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, 8, 8))
    value.backward()
    assert value == 0 and all(p.grad.isfinite().all() for p in loss.parameters())


def test_wrong_arguments(maps, audio):
    with pytest.raises(ValueError, match="embed_dims: .* the sound, which has 8 channels; got 16"):
        AVSBiGenEncoder(16)(maps, audio)
    with pytest.raises(ValueError, match="kernel_size: expected an odd number, got 4"):
        AVSBiGenEncoder(8, kernel_size=4)
    with pytest.raises(ValueError, match="mask: expected one of"):
        GenerationLoss(mask="prediction")
    pairs = [(torch.randn(1, 2, 2, 2, 5), torch.randn(1, 2, 6))]
    with pytest.raises(ValueError, match="mask: 'logits' is for one class, got 3"):
        GenerationLoss(5, 6, mask="logits")(torch.zeros(1, 2, 3, 8, 8), pairs)
    with pytest.raises(ValueError, match="mask: 'ground_truth' needs masks"):
        GenerationLoss(5, 6)(torch.zeros(1, 2, 1, 8, 8), pairs)


# By the description, heads of 4.06 M with PVT: counted from its layers there are 20,000 fewer, which it does not name.
@pytest.mark.parametrize(
    ("backbone", "channels", "whole"),
    [("pvtv2b5", (64, 128, 320, 512), 85.5), ("r50", (256, 512, 1024, 2048), 27.9)],
)
@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_parameters_at_full_size(backbone, channels, whole, subset):
    config = load_config(str(BASELINES / f"avsbigen_{backbone}_{subset}_224.yaml"))
    with torch.device("meta"):
        model = MODELS.build(config.model)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    conv, norm = 9 * 128 * 128, 2 * 128
    assert parts["projection"] == sum(128 * c for c in channels) + 4 * (2 * conv + 3 * norm)
    assert parts["encoder"] == 4 * (128 * 32 + 32 + 49 * 32 * 32 + 32 + 32 + 1 + 2)
    assert parts["pyramid"] == 4 * 4 * (conv + norm)
    assert parts["head"] == 9 * 128 * 64 + 64 + 9 * 64 * 32 + 32 + 32 + 1
    assert parts["matching_losses"] == 128 * 64 + 64 + 9 * 64 * 64 + 64 + 64 * 128 + 128 + 50
    heads = sum(n for name, n in parts.items() if name not in ("backbone", "audio_encoder"))
    assert round((heads + parts["backbone"]) / 1e6, 1) == whole
    if backbone == "pvtv2b5":
        assert heads / 1e6 == pytest.approx(4.06, abs=0.02)


def test_configs_train_as_the_authors_do():
    assert len(FULL) == 4
    for path in FULL:
        cfg, s4 = load_config(str(path)), "_s4_" in path.stem
        assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ("Adam", 1e-4)
        assert cfg.train_cfg.max_epochs == (15 if s4 else 30) and cfg.train_dataloader.batch_size == 12
        assert cfg.param_scheduler is None and not cfg.get("custom_hooks")
        assert cfg.test_dataloader.dataset.pipeline[-1]["size"] == 224
        losses = [(c.type, c.loss_weight, c.get("mask")) for c in cfg.model.losses + cfg.model.matching_losses]
        assert losses == [
            ("StructureLoss", 1, None),
            ("GenerationLoss", 1, "logits" if s4 else "ground_truth"),
            *([] if s4 else [("AVMLoss", 0.5, None)]),
        ]


def test_tiny_model_shares_data_schedule_and_encoders_with_avs_mamba():
    ours = load_config(str(ROOT / "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml"))
    theirs = load_config(str(TINY))
    del theirs.test_evaluator["convention"]
    for key in set(ours) - {"model"}:
        assert ours[key] == theirs[key], key
    for key in ("backbone", "data_preprocessor"):
        assert ours.model[key] == theirs.model[key], key
    assert ours.model.audio_encoder.type == theirs.model.audio_encoder.type == "AudioCNN"
    counts = [sum(p.numel() for p in MODELS.build(c.model).parameters()) for c in (ours, theirs)]
    assert 0.9 < counts[1] / counts[0] < 1.15


AVM = [{"type": "GenerationLoss", "embed_dims": 40, "audio_channels": 40, "grid": 3}, {"type": "AVMLoss"}]


@pytest.mark.parametrize(
    ("config", "options"),
    [(TINY, {"model.matching_losses": AVM}), (TINY_S4, {})],
    ids=["ms3", "s4"],
)
def test_every_parameter_of_the_tiny_model_learns(config, options):
    model = build(options, config)
    losses = model(*clips([3, 3], labelled=[1, 3]), mode="loss")
    assert set(losses) == {"loss_structure", "loss_generation", *(["loss_avm"] if options else [])}
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [n for n in blind if not n.startswith("audio_encoder")]
    assert any(n.startswith("matching_losses.0.") for n in model.state_dict())


@pytest.mark.parametrize(("t", "h", "w"), [(1, 32, 96), (4, 64, 32)])
def test_sizes_and_lengths(t, h, w):
    logits = build().eval()(torch.randn(1, t, 3, h, w), torch.randn(1, t, 1, 96, 64))
    assert logits.shape == (1, t, 1, h, w) and torch.isfinite(logits).all()


@pytest.mark.parametrize("config", [TINY, TINY_S4], ids=["ms3", "s4"])
def test_padding_changes_no_gradient(config):
    model = build(config=config)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = gradients(model, clips([2, 4], labelled=[1, 4]))
    model.load_state_dict(state)
    after = gradients(model, refilled(*clips([2, 4], labelled=[1, 4]), float("nan")))
    assert_equal_and_finite(before, after)


def test_padded_clips_equal_clips_alone():
    model = build().eval()
    frames, log_mel = torch.randn(2, 3, 3, 32, 64), torch.randn(2, 3, 1, 96, 64)
    with torch.no_grad():
        whole = model.masks(frames, log_mel, [2, 3])
        alone = model.masks(frames[:1, :2], log_mel[:1, :2])
    torch.testing.assert_close(whole.logits[:1, :2], alone.logits, rtol=1e-4, atol=1e-5)
    assert not whole.logits[0, 2].any()


def test_mixed_precision_trains():
    assert_gradients_are_finite_in_bfloat16(build(), labelled=[3, 3])


@pytest.mark.parametrize("config", [TINY, TINY_S4], ids=["ms3", "s4"])
def test_training_lowers_the_losses(shapes, config):
    clip = AVSBenchMS3(data_root=str(shapes), split="train", pipeline=[{"type": "Resize", "size": 32}])[0]
    model = build(config=config)
    data = model.data_preprocessor({k: [v] for k, v in clip.items()}, True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for _ in range(25):
        losses = model(**data, mode="loss")
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append({name: value.item() for name, value in losses.items()})
    assert all(found[-1][name] < 0.8 * found[0][name] for name in found[0]), found[::6]
