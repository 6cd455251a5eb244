"""PVT-v2 whose last blocks of stage 3 are left to others: the same maps, the same files."""

import pytest
import timm
import torch

from avsmamba.models.backbones import JointPVT, TimmBackbone


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "pvt.pth"
    torch.save(timm.create_model("pvt_v2_b0").state_dict(), path)
    return str(path)


def test_the_maps_of_a_file_are_those_of_the_whole_backbone(file):
    """The left block, run with its spatial reduction, and the norm lead to timm's third map."""
    whole = TimmBackbone("pvt_v2_b0", checkpoint=file, drop_path_rate=0.0).eval()
    joint = JointPVT("pvt_v2_b0", checkpoint=file, joint_blocks=1).eval()
    whole.init_weights()
    joint.init_weights()
    x = torch.randn(2, 3, 64, 96)
    expected, found = whole(x), joint(x)
    assert (joint.out_channels, joint.strides) == (whole.out_channels[:3], [4, 8, 16])
    for a, b in zip(found[:2], expected, strict=False):
        torch.testing.assert_close(a, b)
    stage = whole.net["stages_2"]
    tokens = stage.blocks[1](found[2].flatten(2).transpose(1, 2), (4, 6))
    torch.testing.assert_close(stage.norm(tokens).transpose(1, 2).unflatten(2, (4, 6)), expected[2])
    (block,) = joint.joint_blocks
    state = stage.blocks[1].state_dict()
    assert {k for k in state if k not in block.state_dict()} == {
        f"attn.{k}" for k in ("sr.weight", "sr.bias", "norm.weight", "norm.bias")
    }
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())
    assert torch.equal(joint.joint_norm.bias, stage.norm.bias)
    assert not any(k.startswith("stages_3") for k in joint.net.state_dict())


def test_acting_between_the_stages_and_checkpointing():
    plain = JointPVT("pvt_v2_b0", joint_blocks=1)
    saving = JointPVT("pvt_v2_b0", joint_blocks=1, grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x, grads = torch.randn(1, 3, 64, 64), []
    for backbone in (plain, saving):
        maps = backbone(x, lambda stage, m: m * (stage + 1))
        maps[2].square().mean().backward()
        grads.append(backbone.net["stages_2"].blocks[0].attn.q.weight.grad)
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(maps[0], 1 * plain(x)[0])
    assert not torch.allclose(maps[1], plain(x)[1])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="model_name: expected a PVT-v2"):
        JointPVT("resnet18")
    with pytest.raises(ValueError, match="joint_blocks: expected less than the 2 blocks"):
        JointPVT("pvt_v2_b0", joint_blocks=2)
    with pytest.raises(ValueError, match="joint_blocks: expected at least 1"):
        JointPVT("pvt_v2_b0", joint_blocks=0)
