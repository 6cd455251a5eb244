"""The baselines whole, from their configs: sizes, losses, gradients, parameter counts, data shared with AVS-Mamba."""

import pytest
import torch

from avsmamba.config.load import load_config
from avsmamba.models.baselines.tpavi import TPAVIBlock
from avsmamba.models.layers.deformable import DeformableAttention
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample
from tests import ROOT
from tests.models.baselines.checks import assert_equal_and_finite, assert_gradients_are_finite_in_bfloat16
from tests.models.test_padding import clips, gradients, refilled

CONFIGS = ROOT / "configs"
TINY = [CONFIGS / f"baselines/{name}_tiny_ms3_shapes.yaml" for name in ("tpavi", "avsegformer", "avsac", "selm")]
# Set prediction: its losses and configs are in the tests of the methods.
SETS = [CONFIGS / f"baselines/{name}_tiny_ms3_shapes.yaml" for name in ("aqformer",)]
FULL = [p for m in ("tpavi", "avsegformer", "avsac") for p in sorted((CONFIGS / "baselines").glob(f"{m}_*_224.yaml"))]
# Counted from the modules of the public code (docs/paper_notes.md), in millions, without what never learns there.
PARAMETERS = {
    ("tpavi", "r50"): 68.16 + 72.14,
    ("tpavi", "pvtv2b5"): 100.14 + 72.14,
    ("avsegformer", "r50"): 53.81 + 72.14,
    ("avsegformer", "pvtv2b5"): 111.02 + 72.14,
}


def build(config, options=None):
    return MODELS.build(load_config(str(config), options).model)


def sample(t=3, h=64, w=32):
    s = AVSDataSample(metainfo={"img_shape": (h, w), "ori_shape": (h, w)})
    s.gt_masks = torch.zeros(t, h, w, dtype=torch.uint8)
    s.gt_masks[:, : h // 2] = 1
    s.gt_temporal_mask_flag = s.vid_temporal_mask_flag = torch.ones(t, dtype=torch.bool)
    return s


@pytest.fixture
def batch():
    return torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)


def test_there_are_configs():
    assert len(FULL) == 18


@pytest.mark.parametrize("config", TINY, ids=lambda c: c.stem)
def test_every_parameter_of_the_tiny_models_learns(config, batch):
    """Leave two starts at zero, which hide the layers before them from the first gradient."""
    model = build(config)
    for block in model.modules():
        if isinstance(block, TPAVIBlock):
            torch.nn.init.ones_(block.mu_norm.weight)
        if isinstance(block, DeformableAttention):
            torch.nn.init.normal_(block.weights.weight)
    losses = model(*batch, [sample(), sample()], mode="loss")
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [n for n in blind if not n.startswith("audio_encoder")]


@pytest.mark.parametrize("config", TINY + SETS, ids=lambda c: c.stem)
@pytest.mark.parametrize(("t", "h", "w"), [(1, 32, 96), (4, 64, 32)])
def test_sizes_and_lengths(config, t, h, w):
    model = build(config).eval()
    logits = model(torch.randn(1, t, 3, h, w), torch.randn(1, t, 1, 96, 64))
    assert logits.shape == (1, t, 1, h, w) and torch.isfinite(logits).all()


@pytest.mark.parametrize("config", TINY + SETS, ids=lambda c: c.stem)
def test_mixed_precision_trains(config):
    assert_gradients_are_finite_in_bfloat16(build(config), labelled=[3, 3])


@pytest.mark.parametrize("config", TINY + SETS, ids=lambda c: c.stem)
def test_tiny_models_share_data_schedule_and_encoders_with_avs_mamba(config):
    ours, theirs = load_config(str(CONFIGS / "avs_mamba/avs_mamba_tiny_ms3_shapes.yaml")), load_config(str(config))
    del theirs.test_evaluator["convention"]
    for key in set(ours) - {"model"}:
        assert ours[key] == theirs[key], key
    for key in ("backbone", "audio_encoder", "data_preprocessor"):
        assert ours.model[key] == theirs.model[key], key
    counts = [sum(p.numel() for p in MODELS.build(c.model).parameters()) for c in (ours, theirs)]
    assert 0.9 < counts[1] / counts[0] < 1.15


@pytest.mark.parametrize(("method", "backbone"), PARAMETERS)
def test_parameters_at_full_size(method, backbone):
    config = load_config(str(CONFIGS / f"baselines/{method}_{backbone}_ms3_224.yaml"))
    with torch.device("meta"):
        count = sum(p.numel() for p in MODELS.build(config.model).parameters()) / 1e6
    assert count == pytest.approx(PARAMETERS[method, backbone], abs=0.01)


@pytest.mark.parametrize("config", FULL, ids=lambda c: c.stem)
def test_losses_of_the_papers(config):
    method, _, subset, _ = config.stem.split("_")
    model = load_config(str(config)).model
    losses = {k: [(c.type, c.loss_weight) for c in model.get(k) or ()] for k in ("losses", "aux_losses")}
    matching = [(c.type, c.loss_weight, c.get("reduction")) for c in model.get("matching_losses") or ()]
    semantic = subset == "avss"
    assert model.head.num_classes == (71 if semantic else 1)
    if method == "tpavi":
        assert losses == {"losses": [("CrossEntropyLoss" if semantic else "BCELoss", 1.0)], "aux_losses": []}
        assert matching == {"ms3": [("AVMLoss", 0.5, "sum")], "avss": [("AVMLoss", 0.5, "mean")]}.get(subset, [])
    else:
        main = ("CrossEntropyLoss" if semantic else "DiceLoss", 1.0)
        assert losses == {"losses": [main], "aux_losses": [("DiceLoss", 0.1)]}
        assert matching == ([("AVFSLoss", 0.1, None)] if method == "avsac" else [])
        dice = [c for c in model.losses + model.aux_losses if c.type == "DiceLoss"]
        assert all(c.squared and c.smooth == 0.002 and not c.smooth_numerator for c in dice)


@pytest.mark.parametrize(("method", "optimizer", "batch_size", "epochs"),
                         [("tpavi", ("Adam", 1e-4), 4, 60), ("avsegformer", ("AdamW", 2e-5), 2, 30),
                          ("avsac", ("AdamW", 2e-5), 2, 30)])  # fmt: skip
@pytest.mark.parametrize("backbone", ["pvtv2b5", "r50"])
def test_schedules_on_avss(method, backbone, optimizer, batch_size, epochs):
    cfg = load_config(str(CONFIGS / f"baselines/{method}_{backbone}_avss_224.yaml"))
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == optimizer
    assert cfg.train_dataloader.batch_size == batch_size and cfg.train_cfg.max_epochs == epochs
    assert cfg.train_dataloader.dataset.num_frames == cfg.test_dataloader.dataset.num_frames == 10
    assert cfg.model.backbone.drop_path_rate == (0.1 if backbone == "pvtv2b5" else 0.0)


def semantic(config, **more):
    """Return the small model with the losses of its method on AVSS, and four classes."""
    method = config.stem.split("_")[0]
    full = load_config(str(CONFIGS / f"baselines/{method}_r50_avss_224.yaml")).model
    options = {f"model.{name}": full.get(name) for name in ("losses", "aux_losses", "matching_losses")}
    evaluators = {f"{mode}_evaluator.type": "AVSSMetric" for mode in ("val", "test")}
    return build(config, options | evaluators | {"model.head.num_classes": 4} | more)


@pytest.mark.parametrize("config", TINY, ids=lambda c: c.stem)
def test_a_step_on_padded_clips_of_several_classes(config):
    """A clip of two frames, one of them labelled, and one of four: losses fall, masks come out."""
    torch.manual_seed(3)
    model = semantic(config)
    frames, log_mel, samples = clips([2, 4], labelled=[1, 4])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    first = None
    for _ in range(6):
        losses = model(frames, log_mel, samples, mode="loss")
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        first = first or {k: v.item() for k, v in losses.items()}
    more = {"tpavi": {"loss_avm"}, "avsegformer": {"aux_loss_dice"}, "avsac": {"aux_loss_dice", "loss_avfs"}}
    more["selm"] = {"loss_hitmap"}
    assert set(losses) == {"loss_crossentropy"} | more[config.stem.split("_")[0]]
    assert losses["loss_crossentropy"].item() < first["loss_crossentropy"]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    predicted = model.eval()(frames, log_mel, samples, mode="predict")
    for s, count in zip(predicted, (2, 4), strict=True):
        assert s.pred_labels.shape == (4, 64, 32) and s.pred_labels.max() < 4
        assert not s.pred_labels[count:].any()


@pytest.mark.parametrize("config", TINY, ids=lambda c: c.stem)
def test_padding_changes_no_gradient(config):
    batch = clips([2, 4], labelled=[1, 4])
    other = refilled(*clips([2, 4], labelled=[1, 4]), float("nan"))
    model = semantic(config)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)  # of the noise in SelM's training
    before = gradients(model, batch)
    model.load_state_dict(state)
    torch.manual_seed(3)
    after = gradients(model, other)
    assert_equal_and_finite(before, after)


@pytest.mark.parametrize("config", FULL, ids=lambda c: c.stem)
def test_when_the_backbones_train(config):
    hooks = load_config(str(config)).get("custom_hooks") or ()
    method, _, subset, _ = config.stem.split("_")
    count = {"s4": 5, "ms3": 10}.get(subset) if method != "tpavi" else None
    assert [(h.type, h.epochs, h.part) for h in hooks] == ([("FreezeBackbone", count, "backbone")] if count else [])


def test_matching_loss_joins_the_others_and_reaches_the_sound(batch):
    model = build(TINY[0], {"model.matching_losses": [{"type": "AVMLoss"}]})
    losses = model(*batch, [sample(), sample()], mode="loss")
    assert set(losses) == {"loss_dice", "loss_bce", "loss_avm"}
    losses["loss_avm"].backward()
    assert all(block.audio.weight.grad.abs().sum() > 0 for block in model.pyramid.interactions.values())


def test_matching_losses_see_the_masks_of_the_padded_frames(batch):
    model = build(TINY[0], {"model.matching_losses": [{"type": "AVMLoss"}]})
    small, seen = sample(), []
    small.gt_masks = small.gt_masks[:, :48, :24] + 2
    model.matching_losses[0].register_forward_hook(lambda module, args, output: seen.append(args[3]))
    model(*batch, [sample(), small], mode="loss")
    assert torch.equal(seen[0][0], sample().gt_masks)
    assert torch.equal(seen[0][1, :, :48, :24], small.gt_masks)
    assert not seen[0][1, :, 48:].any() and not seen[0][1, :, :, 24:].any()


def test_losses_that_the_head_cannot_feed_are_refused(batch):
    model = build(TINY[0], {"model.aux_losses": [{"type": "BCELoss"}]})
    with pytest.raises(ValueError, match="aux_losses: TPAVIHead has no intermediate mask"):
        model(*batch, [sample(), sample()], mode="loss")
    model = build(TINY[1], {"model.matching_losses": [{"type": "AVMLoss"}]})
    with pytest.raises(ValueError, match="matching_losses: AVSegFormerHead has no pairs"):
        model(*batch, [sample(), sample()], mode="loss")


@pytest.mark.parametrize("config", TINY + SETS, ids=lambda c: c.stem)
def test_padded_clips_equal_clips_alone(config):
    """Of AVSS: a head that gives no intermediate mask, or pairs, takes clips of several lengths too."""
    model = build(config).eval()
    frames, log_mel = torch.randn(2, 3, 3, 32, 64), torch.randn(2, 3, 1, 96, 64)
    with torch.no_grad():
        whole = model.masks(frames, log_mel, [2, 3])
        alone = model.masks(frames[:1, :2], log_mel[:1, :2])
    torch.testing.assert_close(whole.logits[:1, :2], alone.logits, rtol=1e-4, atol=1e-5)
    assert not whole.logits[0, 2].any() and (whole.intermediate is None) == (alone.intermediate is None)
    for (maps, audio), (map_alone, audio_alone) in zip(whole.pairs, alone.pairs, strict=True):
        torch.testing.assert_close(maps[:1, :2], map_alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(audio[:1, :2], audio_alone, rtol=1e-4, atol=1e-5)
