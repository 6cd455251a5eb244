"""The whole model from configs: modes, switches, supervision, sizes."""

import pytest
import torch

from avsmamba.config.load import load_config
from avsmamba.models import AVSDataPreprocessor
from avsmamba.models.batch import resize
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample
from tests import ROOT

TINY = str(ROOT / "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml")
CONFIGS = sorted((ROOT / "configs/avs_mamba").glob("*.yaml"))
SMALL = ("_tiny_", "_lite_", "_plus_")


SEMANTIC = {f"{mode}_evaluator.type": "AVSSMetric" for mode in ("val", "test")}


def build(options=None, config=TINY):
    return MODELS.build(load_config(str(config), options).model)


def sample(t=3, h=64, w=32, labelled=None):
    s = AVSDataSample(metainfo={"img_shape": (h, w), "ori_shape": (h, w)})
    s.gt_masks = torch.zeros(t, h, w, dtype=torch.uint8)
    s.gt_masks[:, : h // 2] = 1
    s.gt_temporal_mask_flag = torch.ones(t, dtype=torch.bool) if labelled is None else torch.tensor(labelled)
    s.vid_temporal_mask_flag = torch.ones(t, dtype=torch.bool)
    return s


@pytest.fixture
def batch():
    return torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)


def test_modes(batch):
    model = build({"model.aux_losses": None})
    assert model(*batch).shape == (2, 3, 1, 16, 8)
    losses = model(*batch, [sample(), sample()], mode="loss")
    assert set(losses) == {"loss_dice"} and losses["loss_dice"].ndim == 0
    big = sample()
    big.set_metainfo({"ori_shape": (100, 60), "img_shape": (50, 30)})
    predicted = model(*batch, [sample(), big], mode="predict")
    assert predicted[0].pred_logits.shape == (3, 1, 64, 32)
    assert predicted[1].pred_logits.shape == (3, 1, 100, 60)
    assert predicted[1].frame_logits.shape == (3, 1, 50, 30)
    assert torch.equal(predicted[0].frame_logits, predicted[0].pred_logits)
    torch.testing.assert_close(resize(predicted[1].frame_logits, (100, 60)), predicted[1].pred_logits)
    with pytest.raises(ValueError, match="mode: expected"):
        model(*batch, mode="train")


@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if not any(name in c.stem for name in SMALL)], ids=lambda c: c.stem
)
def test_the_paper_s_configs_train_with_its_losses_alone(config):
    model = load_config(str(config)).model
    semantic = "_avss_" in config.stem
    assert [loss.type for loss in model.losses] == [
        "CrossEntropyLoss" if semantic else "DiceLoss"
    ] and not model.aux_losses
    assert model.head.num_classes == (71 if semantic else 1)


def test_every_parameter_of_the_tiny_model_learns(batch):
    model = build({"model.aux_losses": [{"type": "BCELoss"}]})
    losses = model(*batch, [sample(), sample()], mode="loss")
    assert set(losses) == {"loss_dice", "aux_loss_bce"}
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The 3D scan of a 2 x 1 map reads every token in every order, but the audio encoder's dead ReLUs may be at rest.
    assert not [n for n in blind if not n.startswith("audio_encoder")]


@pytest.mark.parametrize(
    "options",
    [
        {"model.encoder": None},
        {"model.decoder": None},
        {"model.pyramid": None},
        {"model.encoder": None, "model.decoder": None, "model.pyramid": None},
        {"model.pyramid.temporal_mamba": False, "model.pyramid.a2v": False},
        {"model.encoder.orders": 12, "model.head.num_classes": 5, **SEMANTIC},
    ],
    ids=str,
)
def test_parts_are_swapped_in_the_config_alone(batch, options):
    model = build(options)
    assert model(*batch).shape == (2, 3, options.get("model.head.num_classes", 1), 16, 8)


def test_the_queries_of_every_decoder_layer_are_supervised(batch):
    torch.manual_seed(0)
    model = build({"model.deep_supervision": True})
    samples = [sample(), sample()]
    losses = model(*batch, samples, mode="loss")
    assert set(losses) == {"loss_dice", "aux_loss_bce", "d0.loss_dice", "d0.aux_loss_bce"}
    last = build({"model.deep_supervision": False})
    last.load_state_dict(model.state_dict())
    expected = last(*batch, samples, mode="loss")
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    losses["d0.loss_dice"].backward()
    second = [p for n, p in model.named_parameters() if n.startswith("decoder.stages.2")]
    first = [p for n, p in model.named_parameters() if n.startswith("decoder.stages.0")]
    assert second and all(p.grad is None or not p.grad.any() for p in second)
    assert first and all(p.grad.any() for p in first)


def test_unlabelled_frames_do_not_supervise(batch):
    model = build()
    first = sample(labelled=[True, False, False])
    second = sample(labelled=[True, False, False])
    names = {"loss_dice", "aux_loss_bce"}
    before = model(*batch, [first, second], mode="loss")
    assert set(before) == names
    second.gt_masks[1:] = 1 - second.gt_masks[1:]
    unlabelled = model(*batch, [first, second], mode="loss")
    assert all(torch.equal(before[name], unlabelled[name]) for name in names)
    second.gt_masks[0] = 1 - second.gt_masks[0]
    labelled = model(*batch, [first, second], mode="loss")
    assert not any(torch.equal(before[name], labelled[name]) for name in names)


def test_prediction_equals_the_same_clip_alone(batch):
    """A clip's masks do not depend on what else is in the batch."""
    model = build().eval()
    with torch.no_grad():
        both = model(*batch)
        alone = model(batch[0][1:], batch[1][1:])
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_sound_changes_the_masks(batch):
    model = build().eval()
    frames, log_mel = batch
    assert not torch.allclose(model(frames, log_mel), model(frames, log_mel.flip(0)))


@pytest.mark.parametrize(
    ("frames", "log_mel", "message"),
    [
        ((1, 3, 3, 64), (1, 3, 1, 96, 64), "frames: expected"),
        ((1, 3, 3, 60, 32), (1, 3, 1, 96, 64), "multiples of 32"),
        ((1, 3, 3, 64, 32), (1, 2, 1, 96, 64), "log_mel: expected"),
    ],
)
def test_wrong_shapes_are_named(frames, log_mel, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(frames), torch.zeros(log_mel))


def test_preprocessor_normalises_and_pads():
    data = {
        "frames": [
            torch.full((2, 3, 40, 30), 255, dtype=torch.uint8),
            torch.full((2, 3, 33, 64), 0, dtype=torch.uint8),
        ],
        "log_mel": [torch.zeros(2, 1, 96, 64)] * 2,
        "data_samples": [sample(2), sample(2)],
    }
    out = AVSDataPreprocessor(mean=[255, 0, 0], std=[1, 255, 5])(data)
    assert out["frames"].shape == (2, 2, 3, 64, 64)
    assert out["log_mel"].shape == (2, 2, 1, 96, 64)
    assert out["frames"][0, 0, :, 39, 29].tolist() == [0.0, 1.0, 51.0]
    assert out["frames"][1, 1, :, 32, 63].tolist() == [-255.0, 0.0, 0.0]
    assert not out["frames"][0, :, :, 40:].any() and not out["frames"][0, :, :, :, 30:].any()
    data["frames"][1] = data["frames"][1][:1]
    with pytest.raises(ValueError, match="same number of frames"):
        AVSDataPreprocessor()(data)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_the_paper_s_model(path):
    with torch.device("meta"):
        model = build({"model.data_preprocessor": None}, path)
    tiny = any(name in path.stem for name in SMALL)
    assert model.head.mlp[-1].out_features == (32 if tiny else 256) and len(model.head.mlp) == (2 if tiny else 3)
    assert [layer.out_channels for layer in model.head.hidden] == ([] if tiny else [128, 32])
    assert model.encoder.blocks[-1].ssm.num_directions == 8
    assert model.encoder.blocks[-1].ssm.d_state == (4 if tiny else 16)
    assert model.deep_supervision != tiny
    assert (
        len(model.encoder.blocks) == (4 if tiny else 6)
        and len(model.decoder.stages) == 4
        and len(model.pyramid.fusion) == 4
    )


def test_there_are_configs():
    assert len(CONFIGS) >= 11
