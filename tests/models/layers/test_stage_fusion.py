"""Acting between the stages of a backbone, and inside the whole model."""

import pytest
import torch
from torch import nn

from avsmamba.limits import limits
from avsmamba.models.backbones import SmallConvBackbone, TimmBackbone, VMamba
from avsmamba.models.layers.stage_fusion import StageFusion
from avsmamba.registry import MODELS
from tests.models.test_segmentor import build, sample

SMALL_VMAMBA = {"arch": "v05_tiny_s1l8", "dims": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
BACKBONES = {
    "small": SmallConvBackbone,
    "pvt": lambda **a: TimmBackbone("pvt_v2_b0", drop_path_rate=0.0, **a),
    "resnet": lambda **a: TimmBackbone("resnet18", norm_eval=True, **a),
    "swin": lambda **a: TimmBackbone("swin_tiny_patch4_window7_224", model_args={"img_size": 64}, **a),
    "vmamba": lambda **a: VMamba(**SMALL_VMAMBA, **a),
}


@MODELS.register_module(force=True)
class AddSound(StageFusion):
    """Adds a linear function of the sound to every map; the sound's state is doubled after each stage."""

    @limits()
    def __init__(self, in_channels, audio_channels, embed_dims=8):
        super().__init__()
        self.out_channels = audio_channels
        self.linear = nn.ModuleList(nn.Linear(audio_channels, c) for c in in_channels)

    def fuse(self, stage, x, state):
        return x + self.linear[stage](state)[:, :, None, None], 2 * state


@pytest.mark.parametrize("name", BACKBONES)
def test_nothing_between_changes_nothing_and_something_reaches_the_later_maps(name):
    backbone = BACKBONES[name]().eval()
    assert backbone.has_stages
    x = torch.randn(2, 3, 64, 64)
    plain = backbone(x)
    seen = []

    def record(stage, m):
        seen.append((stage, m.shape))
        return m

    for a, b in zip(plain, backbone(x, record), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert seen == [(i, m.shape) for i, m in enumerate(plain)]
    other = backbone(x, lambda stage, m: m * 1.5 if stage == 1 else m)
    torch.testing.assert_close(other[0], plain[0], rtol=0, atol=0)
    assert all(not torch.equal(a, b) for a, b in zip(other[2:], plain[2:], strict=True))
    if name != "vmamba":  # its maps go through a norm
        torch.testing.assert_close(other[1], 1.5 * plain[1])


@pytest.mark.parametrize("name", ["pvt", "vmamba"])
def test_gradients_pass_through_a_frozen_backbone_and_through_checkpointing(name):
    gradients = []
    plain = BACKBONES[name](frozen=True).eval()
    saving = BACKBONES[name](frozen=True, grad_checkpointing=True).eval()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for backbone in (plain, saving):
        offset = torch.zeros((), requires_grad=True)
        maps = backbone(x, lambda stage, m, offset=offset: m + offset if stage == 0 else m)
        maps[3].square().mean().backward()
        gradients.append(offset.grad)
        assert not any(p.requires_grad for n, p in backbone.named_parameters() if not n.startswith("out_norms"))
    assert gradients[0] != 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)


def test_in_the_model_sound_enters_the_maps_frame_by_frame_and_is_returned():
    model = build({"model.stage_fusion": {"type": "AddSound"}}).eval()
    frames, log_mel = torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)
    maps, audio = model.features(frames, log_mel)
    changed = log_mel.clone()
    changed[1, 2] += 1
    for m, n in zip(maps, model.features(frames, changed)[0], strict=True):
        assert (m != n).flatten(2).any(2).nonzero().tolist() == [[1, 2]]
    torch.testing.assert_close(audio, model.projection.audio(16 * model.audio_encoder(log_mel)))
    losses = model.train()(frames, log_mel, [sample(), sample()], mode="loss")
    sum(losses.values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.stage_fusion.parameters())


def test_padding_does_not_enter():
    model = build({"model.stage_fusion": {"type": "AddSound"}}).eval()
    frames, log_mel = torch.randn(1, 3, 3, 64, 32), torch.randn(1, 3, 1, 96, 64)
    padded = sample()
    padded.vid_temporal_mask_flag[2] = False
    short = model(frames[:, :2], log_mel[:, :2])
    long = model.masks(frames, log_mel, [2]).logits
    torch.testing.assert_close(long[:, :2], short)


def test_models_that_cannot_act_between_stages():
    fusion = {"model.stage_fusion": {"type": "AddSound"}}
    backbone = {"_delete_": True, "type": "TimmBackbone", "model_name": "mobilenetv3_small_100"}
    with pytest.raises(ValueError, match="stage_fusion: TimmBackbone has no stages"):
        build(fusion | {"model.backbone": backbone})
    with pytest.raises(ValueError, match="padded_frames: expected 'skip' with a stage_fusion"):
        build(fusion | {"model.padded_frames": "zeros"})
