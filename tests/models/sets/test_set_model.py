"""Set prediction inside AVSSegmentor: training on one clip, supervision, padding, dry run, check of the config."""

import pytest
import torch
from torch import nn

from avsmamba.config.check import check_config
from avsmamba.config.load import load_config
from avsmamba.datasets.avsbench import AVSBenchMS3
from avsmamba.engine.dry_run import dry_run
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests.models.test_segmentor import TINY, sample
from tests.small_model import AVSS

C = 32


def config(num_classes=1, **options):
    return {
        "type": "AVSSegmentor",
        "backbone": {"type": "SmallConvBackbone", "channels": [16, 24, 32, 32], "norm": "GN"},
        "audio_encoder": {"type": "AudioCNN", "channels": [8, 16], "out_channels": 16},
        "projection": {"type": "Projection"},
        "encoder": {"type": "DeformablePixelDecoder", "num_layers": 1, "num_heads": 4, "ffn_dims": 64},
        "decoder": {
            "type": "MaskedAttentionDecoder", "num_queries": 6, "num_layers": 3, "num_heads": 4, "ffn_dims": 64,
        },
        "head": {"type": "QuerySetHead", "num_classes": num_classes, "logit_gradient": False},
        "losses": [],
        "set_losses": [
            {"type": "SetLoss", "num_points": 256, "matcher": {"type": "HungarianMatcher", "num_points": 256}}
        ],
        "embed_dims": C,
    } | options  # fmt: skip


@pytest.fixture
def batch():
    return torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)


def iou(model, data, masks):
    model.eval()
    with torch.no_grad():
        marked = model(**data, mode="predict")[0].pred_logits[:, 0] > 0
    model.train()
    truth = masks > 0
    return float((marked & truth).sum() / (marked | truth).sum().clamp(min=1))


def test_a_model_learns_one_clip(shapes):
    """30 steps on a generated clip: the loss falls and the masks come near to the labels."""
    pipeline = [{"type": "Resize", "size": 64}]
    clip = AVSBenchMS3(data_root=str(shapes), split="train", pipeline=pipeline)[0]
    torch.manual_seed(0)
    model = MODELS.build(config())
    data = model.data_preprocessor({k: [v] for k, v in clip.items()}, True)
    masks = data["data_samples"][0].gt_masks
    before = iou(model, data, masks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(30):
        losses = model(**data, mode="loss")
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    after = iou(model, data, masks)
    assert totals[-1] < 0.5 * totals[0]
    assert after > 0.6 > before


@pytest.mark.parametrize("num_classes", [1, 5])
def test_every_layer_is_supervised(batch, num_classes):
    torch.manual_seed(0)
    model = MODELS.build(config(num_classes))
    nn.init.normal_(model.encoder.encoder.layers[0].attention.offsets.weight, std=0.1)  # 0 at the start
    names = {f"loss_set_{name}" for name in ("class", "mask", "dice")}
    losses = model(*batch, [sample(), sample(labelled=[True, False, False])], mode="loss")
    assert set(losses) == names | {f"d{i}.{name}" for i in range(3) for name in names}
    sum(losses.values()).backward()
    blind = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [n for n in blind if not n.startswith("audio_encoder")]
    model.deep_supervision = False
    assert set(model(*batch, [sample(), sample()], mode="loss")) == names
    assert model(*batch).shape == (2, 3, num_classes, 16, 8)


def test_bfloat16(batch):
    """Under autocast losses are float32 and near those of float32."""
    torch.manual_seed(0)
    grid = [{"type": "SetLoss", "num_points": None, "matcher": {"type": "HungarianMatcher", "num_points": None}}]
    model = MODELS.build(config(set_losses=grid))
    expected = model(*batch, [sample(), sample()], mode="loss")
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*batch, [sample(), sample()], mode="loss")
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.1)
    sum(found.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_loss_without_sets_is_an_error(batch):
    cfg = load_config(TINY, {"model.set_losses": [{"type": "SetLoss"}]})
    with pytest.raises(ValueError, match="set_losses: AudioQueryHead gives no sets of queries"):
        MODELS.build(cfg.model)(*batch, [sample(), sample()], mode="loss")


@pytest.mark.parametrize("padded_frames", ["skip", "zeros"])
def test_padding_behind_a_clip_changes_nothing(batch, padded_frames):
    torch.manual_seed(0)
    grid = [{"type": "SetLoss", "num_points": None, "matcher": {"type": "HungarianMatcher", "num_points": None}}]
    model = MODELS.build(config(set_losses=grid, padded_frames=padded_frames)).eval()
    long, short = sample(), sample(labelled=[True, True, False])
    short.vid_temporal_mask_flag = torch.tensor([True, True, False])
    expected = model(batch[0][1:, :2], batch[1][1:, :2], [sample(t=2)], mode="loss")
    frames, log_mel = (x[1:].clone() for x in batch)
    frames[:, 2] = log_mel[:, 2] = 9.0
    found = model(frames, log_mel, [short], mode="loss")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert model(*batch, [long, short], mode="predict")[1].pred_logits.shape == (3, 1, 64, 32)


class Mixing(nn.Module):
    """An encoder that hears."""

    reads_audio = True

    def forward(self, maps, audio):
        return [m + audio[:, :, None, None] for m in maps], audio + maps[3].mean((2, 3))


def test_an_encoder_may_read_the_audio(batch):
    model = MODELS.build(config()).eval()
    model.encoder = Mixing()
    seen = []
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    model(*batch)
    maps, audio = model.features(*batch)
    torch.testing.assert_close(seen[0][0][1], maps[1] + audio[:, :, None, None])
    torch.testing.assert_close(seen[0][1], audio + maps[3].mean((2, 3)))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("base, num_classes", [(TINY, 1), (AVSS, 5)])
def test_dry_run_of_a_config(base, num_classes, amp):
    cfg = load_config(base)
    cfg.model = config(num_classes)
    check_config(cfg)
    names = dry_run(cfg, amp=amp).losses
    assert len(names) == 12 and "d2.loss_set_dice" in names


def test_a_config_without_any_loss_is_refused():
    cfg = load_config(TINY)
    cfg.model = config(set_losses=[])
    with pytest.raises(UserError, match="losses: expected at least one loss"):
        check_config(cfg)
    cfg.model = config(set_losses=[{"type": "SetLoss", "points": 3}])
    with pytest.raises(UserError, match="set_losses.0.points: SetLoss takes no 'points'; did you mean 'num_points'"):
        check_config(cfg)
