"""ECMVAE whole: prior and posterior in training, seeded predictions, sizes, configs."""

import pytest
import torch

from avsmamba.config.check import check_config
from avsmamba.config.load import load_config
from avsmamba.datasets.avsbench import AVSBenchMS3
from avsmamba.engine.dry_run import dry_run
from avsmamba.models.baselines.tpavi import TPAVIBlock
from avsmamba.models.noise import clip_noise, mean_prediction
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests import ROOT
from tests.models.baselines.checks import assert_equal_and_finite, assert_gradients_are_finite_in_bfloat16
from tests.models.test_padding import clips, gradients, refilled

BASELINES = ROOT / "configs" / "baselines"
TINY = BASELINES / "ecmvae_tiny_ms3_shapes.yaml"
FULL = sorted(BASELINES.glob("ecmvae_*_224.yaml"))
LATENT_LOSSES = {"loss_kl", "loss_js", "loss_mi", "loss_difference"}


def build(options=None):
    """Return the small model with the blocks of TPAVI, which start as the identity, switched on."""
    model = MODELS.build(load_config(str(TINY), options).model)
    for block in model.modules():
        if isinstance(block, TPAVIBlock):
            torch.nn.init.ones_(block.mu_norm.weight)
    return model


def named(batch):
    for i, sample in enumerate(batch[2]):
        sample.set_metainfo({"clip": f"clip{i}"})
    return batch


def seeded(model, batch):
    torch.manual_seed(7)
    return gradients(model, batch)


def test_wrong_arguments():
    with pytest.raises(UserError, match="model.latent: expected one of"):
        build({"model.latent": "median"})
    with pytest.raises(UserError, match="model.num_samples: expected at least 1"):
        build({"model.num_samples": 0})
    with pytest.raises(ValueError, match="data_samples: required by mode 'loss'"):
        build()(*clips([4])[:2], mode="loss")


# Training


@pytest.mark.parametrize("options", [{}, {"model.matching_losses": [{"type": "AVMLoss"}]}], ids=["s4", "ms3"])
def test_every_parameter_of_the_tiny_model_learns(options):
    model = build(options)
    losses, found = gradients(model, clips([3, 3], labelled=[1, 3]))
    segmentation = {"loss_structure"} | ({"loss_avm"} if options else set())
    assert set(losses) == segmentation | {f"posterior_{name}" for name in segmentation} | LATENT_LOSSES
    blind = [n for n, _ in model.named_parameters() if n not in found or not found[n].abs().sum() > 0]
    assert not [n for n in blind if not n.startswith("audio_encoder")]


def test_prior_and_posterior_start_equal():
    model = build()
    for name, part in (("projection", model.projection), ("decoder", model.pyramid.decoder), ("head", model.head)):
        own, other = part.state_dict(), model.posterior[name].state_dict()
        assert all(torch.equal(own[key], other[key]) for key in own)
        pointers = [p.data_ptr() for p in part.parameters()]
        assert not {*pointers} & {p.data_ptr() for p in model.posterior[name].parameters()}


def test_the_posterior_reads_labelled_frames_alone():
    """S4: one mask a clip. The masks of the other frames change no loss."""
    model = build()
    seen = []
    model.posterior["latents"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    frames, log_mel, samples = clips([4, 2], labelled=[1, 2])
    first, _ = seeded(model, (frames, log_mel, samples))
    places = [(0, 0), (1, 0), (1, 1)]
    for n, (b, t) in enumerate(places):
        assert torch.equal(seen[0][0][n], frames[b, t])
        assert torch.equal(seen[0][2][n, 0], samples[b].gt_masks[t] != 0)
    assert len(seen[0][0]) == 3

    samples[0].gt_masks[1:] = 0
    again, _ = seeded(model, (frames, log_mel, samples))
    assert (
        first["loss_kl"] == again["loss_kl"] and first["posterior_loss_structure"] == again["posterior_loss_structure"]
    )
    samples[0].gt_masks[0] = 0
    changed, _ = seeded(model, (frames, log_mel, samples))
    assert changed["loss_kl"] != first["loss_kl"] and changed["loss_js"] != first["loss_js"]


def test_both_passes_are_composed_of_their_parts():
    """In evaluation mode, where no statistic changes: prior and posterior logits from the parts one by one."""
    model = build().eval()
    frames, log_mel, samples = clips([4, 4], labelled=[2, 4])
    outputs = []
    model.loss = lambda found, size, data_samples: outputs.append(found[0].logits) or {}
    torch.manual_seed(5)
    model.training_losses(frames, log_mel, None, samples)

    torch.manual_seed(5)
    maps = model.backbone(frames.flatten(0, 1))
    sound = model.audio_encoder(log_mel)
    labelled = torch.tensor([0, 1, 4, 5, 6, 7])
    prior_maps, audio = model.projection(maps, sound)
    prior = model.latents(frames.flatten(0, 1), audio.flatten(0, 1))
    z = prior.mean + (prior.log_variance / 2).exp() * torch.randn(8, 3, 8)
    fused = model.latents.fused(prior_maps, model.latents.join(z))
    expected = model.head(None, model.pyramid(fused, audio)).logits
    torch.testing.assert_close(outputs[0], expected, rtol=1e-4, atol=1e-5)

    part = model.posterior
    maps_of, audio = part["projection"](maps, sound)
    masks = torch.stack([s.gt_masks for s in samples]).flatten(0, 1)[labelled, None] != 0
    posterior = part["latents"](frames.flatten(0, 1)[labelled], audio.flatten(0, 1)[labelled], masks)
    z = z.clone()
    z[labelled] = posterior.mean + (posterior.log_variance / 2).exp() * torch.randn(6, 3, 8)
    fused = part["latents"].fused(maps_of, part["latents"].join(z))
    expected = part["head"](None, model.pyramid(fused, audio, part["decoder"])).logits
    torch.testing.assert_close(outputs[1], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs[0], outputs[1])


def test_weights_of_the_passes():
    model = build()
    first, _ = seeded(model, clips([3, 3]))
    model.prior_weight, model.posterior_weight = 0.5, 0.25
    second, _ = seeded(model, clips([3, 3]))
    torch.testing.assert_close(second["loss_structure"], first["loss_structure"] / 2)
    torch.testing.assert_close(second["posterior_loss_structure"], first["posterior_loss_structure"] / 4)


def test_a_batch_without_labels_keeps_a_gradient_for_every_parameter():
    model = build()
    losses, found = gradients(model, clips([2, 4], labelled=[0, 0]))
    assert {k: v.item() for k, v in losses.items()} == {"loss_structure": 0.0, "loss_kl": 0.0}
    assert {n for n, _ in model.named_parameters()} == found.keys()


def test_padding_changes_no_gradient():
    model = build()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = seeded(model, clips([2, 4], labelled=[1, 4]))
    model.load_state_dict(state)
    after = seeded(model, refilled(*clips([2, 4], labelled=[1, 4]), float("nan")))
    assert_equal_and_finite(before, after)


def test_mixed_precision_trains():
    assert_gradients_are_finite_in_bfloat16(build(), labelled=[1, 3])


def test_training_lowers_the_loss(shapes):
    clip = AVSBenchMS3(data_root=str(shapes), split="train", pipeline=[{"type": "Resize", "size": 64}])[0]
    model = build()
    data = model.data_preprocessor({k: [v] for k, v in clip.items()}, True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(15):
        losses = model(**data, mode="loss")
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append([losses["loss_structure"].item(), losses["posterior_loss_structure"].item()])
    assert all(last < 0.8 * first for first, last in zip(totals[0], totals[-1], strict=True))


# Prediction


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build().eval()
    for name in ("latent", "seed", "num_samples"):  # what the tests change
        assert name in vars(model)
    return model


@pytest.fixture
def stochastic(model, monkeypatch):
    monkeypatch.setattr(model, "latent", "sample")
    return model


@torch.no_grad()
def predicted(model, batch):
    return model(*batch)


def test_the_mean_is_deterministic_and_equals_the_masks(model):
    frames, log_mel, samples = named(clips([2, 4]))
    found = predicted(model, (frames, log_mel, samples))
    with torch.no_grad():
        assert torch.equal(found, model.masks(frames, log_mel, [2, 4]).logits)
        alone = model.masks(frames[:1, :2], log_mel[:1, :2]).logits
    torch.testing.assert_close(found[:1, :2], alone, rtol=1e-4, atol=1e-5)
    assert not found[0, 2:].any()


def test_a_sample_of_a_clip_depends_on_its_name_and_the_seed_alone(stochastic, monkeypatch):
    frames, log_mel, samples = named(clips([2, 4]))
    frames[1, :2], log_mel[1, :2] = frames[0, :2], log_mel[0, :2]
    state = torch.random.get_rng_state()
    found = predicted(stochastic, (frames, log_mel, samples))
    assert torch.equal(found, predicted(stochastic, (frames, log_mel, samples)))
    assert torch.equal(torch.random.get_rng_state(), state)
    # Neither on the batch, nor on the padding.
    alone = predicted(stochastic, (frames[:1, :2], log_mel[:1, :2], None))
    assert not torch.allclose(alone, found[:1, :2])  # another name: none
    _, _, one = clips([2])
    one[0].set_metainfo({"clip": "clip0"})
    for filling in (0.0, float("nan")):
        padded = predicted(stochastic, refilled(frames[:1], log_mel[:1], one, filling))
        torch.testing.assert_close(padded, found[:1], rtol=1e-4, atol=1e-5)
        assert not padded[:, 2:].any()
    last = predicted(stochastic, (frames[1:], log_mel[1:], samples[1:]))
    torch.testing.assert_close(last, found[1:], rtol=1e-4, atol=1e-5)
    # Another clip and another seed have other noise.
    samples[1].set_metainfo({"clip": "other"})
    assert not torch.allclose(predicted(stochastic, (frames, log_mel, samples))[1], found[1])
    monkeypatch.setattr(stochastic, "seed", 1)
    assert not torch.allclose(predicted(stochastic, (frames, log_mel, samples))[0, :2], found[0, :2])


def test_samples_are_drawn_from_the_prior_and_averaged_as_probabilities(stochastic, monkeypatch):
    frames, log_mel, samples = named(clips([4]))
    monkeypatch.setattr(stochastic, "num_samples", 3)
    found = predicted(stochastic, (frames, log_mel, samples))
    noise = clip_noise(0, ["clip0"], [4], (3, 3, 8))
    with torch.no_grad():
        maps, audio = stochastic.projection(stochastic.backbone(frames[0]), stochastic.audio_encoder(log_mel))
        prior = stochastic.latents(frames[0], audio[0])
        logits = []
        for k in range(3):
            z = prior.mean + (prior.log_variance / 2).exp() * noise[:, k]
            fused = stochastic.latents.fused(maps, stochastic.latents.join(z))
            logits.append(stochastic.head(None, stochastic.pyramid(fused, audio)).logits)
    torch.testing.assert_close(found, mean_prediction(logits), rtol=1e-4, atol=1e-5)


def test_predictions_of_samples(stochastic):
    batch = named(clips([2, 4]))
    with torch.no_grad():
        for sample, count in zip(stochastic(*batch, mode="predict"), (2, 4), strict=True):
            assert sample.pred_logits.shape == (4, 1, 64, 32) and not sample.pred_logits[count:].any()


@pytest.mark.parametrize("latent", ["mean", "sample"])
def test_a_prediction_does_not_read_the_posterior(latent):
    model = build({"model.latent": latent}).eval()
    batch = clips([4])
    before = predicted(model, batch)
    for p in model.posterior.parameters():
        torch.nn.init.constant_(p, float("nan"))
    assert torch.equal(predicted(model, batch), before)


def test_the_sound_and_the_frame_reach_the_mask(model):
    frames, log_mel, samples = clips([4])
    before = predicted(model, (frames, log_mel, samples))
    other = log_mel.clone()
    other[0, 2] += 1
    changed = (predicted(model, (frames, other, samples)) - before).abs().flatten(2).amax(-1)
    assert changed.min() > 0 and changed[0, 2] > changed[0, [0, 1, 3]].max()


@pytest.mark.parametrize(("t", "h", "w"), [(1, 32, 96), (3, 64, 32)])
def test_sizes_and_lengths(model, t, h, w):
    logits = predicted(model, (torch.randn(1, t, 3, h, w), torch.randn(1, t, 1, 96, 64)))
    assert logits.shape == (1, t, 1, h, w) and torch.isfinite(logits).all()


# Configs


# Counted from the description: 9.85 M without backbone and VGGish. Here: neck 1,313,792 and decoder 2,363,392 with head
# 92,289, two times; TPAVI 200,448; latents 941,632 and 1,216,560; mutual information 306.
HEADS = 2 * (1_313_792 + 2_363_392 + 92_289) + 200_448 + 941_632 + 1_216_560 + 306


@pytest.mark.parametrize(("backbone", "count"), [("pvtv2b5", 81_443_008 + HEADS), ("r50", None)])
def test_parameters_at_full_size(backbone, count):
    config = load_config(str(BASELINES / f"ecmvae_{backbone}_ms3_224.yaml"))
    with torch.device("meta"):
        model = MODELS.build(config.model)
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    total = sum(found.values()) - found["audio_encoder"]
    wider = 2 * 128 * (256 + 512 + 1024 + 2048 - 64 - 128 - 320 - 512)  # the neck's 1 x 1 convolutions of ResNet-50
    assert total == (count or 23_508_032 + HEADS + wider)
    assert pytest.approx(9.85e6, rel=0.006) == HEADS


def test_configs_train_as_the_authors_do():
    assert len(FULL) == 4
    for path in FULL:
        cfg = load_config(str(path))
        subset = path.stem.split("_")[2]
        assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ("Adam", 1e-4)
        assert cfg.train_cfg.max_epochs == {"s4": 15, "ms3": 30}[subset] and cfg.train_dataloader.batch_size == 4
        assert not cfg.get("custom_hooks") and cfg.test_dataloader.dataset.pipeline[-1]["size"] == 224
        matching = [(c.type, c.loss_weight) for c in cfg.model.get("matching_losses") or ()]
        assert matching == ([("AVMLoss", 0.5)] if subset == "ms3" else [])
        assert cfg.model.latent_loss.to_dict() == {
            "type": "ECMVAELoss", "latent_weight": 0.01, "mi_weight": 0.001, "difference_weight": 0.001,
        }  # fmt: skip
        assert cfg.model.get("latent") == "mean"


def test_faults_in_a_config_are_reported():
    for key, value, words in (
        ("losses", [], "model.losses: expected at least one loss"),
        ("latents", {"type": "ECMVAELatents", "dim": 4}, "model.latents.dim: ECMVAELatents takes no 'dim'"),
        ("seed", -1, "model.seed: expected at least 0"),
        ("head", {"type": "TPAVIHead", "num_classes": 4}, "AVSMetric does not go with model.head.num_classes 4"),
    ):
        cfg = load_config(str(TINY)).to_dict()
        cfg["model"][key] = value
        with pytest.raises(UserError, match=words):
            check_config(cfg)


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


def test_dry_run():
    assert set(dry_run(load_config(str(TINY)), amp=True).losses) == LATENT_LOSSES | {
        "loss_structure", "posterior_loss_structure",
    }  # fmt: skip
