"""A DINOv3 whose last blocks are left to others: the same tokens as timm's, and files of both kinds of names."""

import pytest
import timm
import torch

from avsmamba.models.backbones import JointViT

NAME, SIZE = "vit_tiny_patch16_dinov3_qkvb", (4, 6)


def whole():
    torch.manual_seed(0)
    net = timm.create_model(NAME, num_classes=0).eval()
    for block in net.blocks:
        torch.nn.init.ones_(block.gamma_1)
        torch.nn.init.ones_(block.gamma_2)
    return net


def original(state):
    """Rename timm's tensors to those of the release."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    found = {"mask_token": torch.zeros(1, 192), "rope_embed.periods": torch.ones(16)}
    for key, value in state.items():
        if key.endswith("v_bias"):
            continue
        if key.endswith("q_bias"):
            value = torch.cat([value, 0 * value, state[key.replace("q_bias", "v_bias")]])
            key = key.replace("q_bias", "qkv.bias")
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        found[key] = value
    return found


@pytest.mark.parametrize("names", ["timm", "original"])
def test_blocks_without_queries_lead_to_the_tokens_of_timm(tmp_path, names):
    net, file = whole(), tmp_path / "vit.pth"
    torch.save(net.state_dict() if names == "timm" else original(net.state_dict()), file)
    backbone = JointViT(NAME, checkpoint=str(file), joint_blocks=3).eval()
    backbone.init_weights()
    x = torch.randn(2, 3, 64, 96)
    (found,), extra = backbone.start(x)
    assert found.shape == (2, 192, *SIZE) and extra.shape == (2, 5, 192)
    assert torch.equal(backbone(x)[0], found)
    pixels = found.flatten(2).transpose(1, 2)
    for block in backbone.joint_blocks:
        extra, pixels = backbone.join(block, extra, pixels, SIZE)
    expected = net.forward_features(x)
    torch.testing.assert_close(backbone.joint_norm(torch.cat([extra, pixels], 1)), expected)


def test_queries_have_no_place_and_masked_pixels_do_not_reach_them():
    backbone = JointViT(NAME, joint_blocks=3).eval()
    torch.nn.init.ones_(backbone.joint_blocks[0].gamma_1)
    block = backbone.joint_blocks[0]
    extra, queries, pixels = torch.randn(2, 5, 192), torch.randn(2, 2, 192), torch.randn(2, 24, 192)

    def run(queries, pixels, allowed=None):
        others, found = backbone.join(block, torch.cat([extra, queries], 1), pixels, SIZE, allowed)
        return others[:, 5:], found

    others, _ = backbone.join(block, torch.cat([extra, extra[:, :2]], 1), pixels, SIZE)
    torch.testing.assert_close(others[:, 5:], others[:, :2])  # they are treated as the class and register tokens
    first, second = run(queries, pixels), run(queries.flip(1), pixels)
    torch.testing.assert_close(first[0], second[0].flip(1))
    torch.testing.assert_close(first[1], second[1])
    assert not torch.allclose(first[0], run(queries, pixels.flip(1))[0])  # pixels have one
    allowed = torch.ones(2, 7, 24, dtype=torch.bool)
    allowed[:, 5, 3] = False
    changed = pixels.clone()
    changed[:, 3] += torch.randn(192)
    before, after = run(queries, pixels, allowed)[0], run(queries, changed, allowed)[0]
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="model_name: expected one such as"):
        JointViT("vit_base_patch16_224")
    with pytest.raises(ValueError, match="joint_blocks: expected less than the model's 12 blocks, got 12"):
        JointViT(NAME, joint_blocks=12)
