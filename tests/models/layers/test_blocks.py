"""What flows where: each block's reach in time, space and modality, measured by gradients."""

import pytest
import torch

from avsmamba.models.layers import A2VFusionBlock, MixFFN, SSMOptions, TemporalMambaBlock, V2AFusionBlock, VSSBlock
from avsmamba.models.layers.conv import CausalConv1d, DepthwiseConv3d, depthwise_conv
from tests.models.conftest import assert_every_parameter_learns

OPTIONS = SSMOptions(d_state=2, drop_path=0.0)


def reach(output, inputs):
    """Return, for each input, where it has influence on `output` (a scalar)."""
    grads = torch.autograd.grad(output, inputs, allow_unused=True, retain_graph=True)
    return [None if g is None else g.abs().sum(-1) > 0 for g in grads]


def double(block):
    return block.double()


def test_vss_block_mixes_all_scales_of_a_frame_and_no_other_frame(maps):
    maps = [m.requires_grad_() for m in maps[1:]]
    block = double(VSSBlock(8, OPTIONS))
    out = block(maps)
    assert [o.shape for o in out] == [m.shape for m in maps]
    for seen in reach(out[1][0, 1, 2, 1].sum(), maps):
        assert seen[0, 1].all()
        assert not seen[0, 0].any() and not seen[0, 2].any() and not seen[1].any()


def test_temporal_mamba_block_mixes_all_scales_and_frames_of_a_clip(maps):
    maps = [m.requires_grad_() for m in maps[1:]]
    out = double(TemporalMambaBlock(8, 8, options=OPTIONS))(maps)
    assert [o.shape for o in out] == [m.shape for m in maps]
    for seen in reach(out[0][1, 0, 3, 2].sum(), maps):
        assert seen[1].all() and not seen[0].any()


@pytest.mark.parametrize("num_orders", [2, 4, 6, 8, 10, 12])
def test_temporal_mamba_block_has_as_many_models_as_orders(maps, num_orders):
    block = double(TemporalMambaBlock(8, num_orders, options=OPTIONS))
    assert block.ssm.A_log.shape[0] == num_orders
    assert block([maps[3]])[0].shape == maps[3].shape


def test_temporal_mamba_block_refuses_other_numbers_of_orders(maps):
    with pytest.raises(ValueError, match="orders"):
        double(TemporalMambaBlock(8, 5, options=OPTIONS))([maps[3]])


@pytest.mark.parametrize(
    ("context", "heard"), [("frame", [False, True, False]), ("clip", [True, True, False])], ids=["frame", "clip"]
)
def test_frame_level_audio_gathers_its_own_frame(maps, audio, context, heard):
    """With context 'clip' its convolution sees earlier audio as well."""
    visual, audio = maps[2].requires_grad_(), audio.requires_grad_()
    out = double(V2AFusionBlock(8, "frame", options=OPTIONS, frame_audio_context=context))(visual, audio)
    assert out.shape == audio.shape
    seen_v, seen_a = reach(out[0, 1].sum(), [visual, audio])
    assert seen_v[0, 1].all() and not seen_v[0, 0].any() and not seen_v[0, 2].any() and not seen_v[1].any()
    assert seen_a[0].tolist() == heard


def test_mix_ffn_reaches_the_neighbours_on_the_same_map(maps):
    maps = [m.requires_grad_() for m in maps[1:]]
    out = double(MixFFN(8, options=OPTIONS))(maps)
    assert [o.shape for o in out] == [m.shape for m in maps]
    seen = reach(out[0][1, 2, 3, 1].sum(), maps)
    assert seen[1] is None and seen[2] is None
    expected = torch.zeros_like(seen[0])
    expected[1, 2, 2:5, 0:3] = True
    assert torch.equal(seen[0], expected)


def test_mix_ffn_by_its_formula(maps):
    block = double(MixFFN(8, 3.0, OPTIONS))
    x = maps[2]
    hidden = block.fc1(torch.nn.functional.layer_norm(x, (8,), block.norm.weight, block.norm.bias, 1e-6))
    assert hidden.shape[-1] == 24
    local = torch.nn.functional.conv2d(
        hidden.flatten(0, 1).movedim(-1, 1), block.conv.weight, block.conv.bias, padding=1, groups=24
    )
    expected = x + block.fc2(torch.nn.functional.gelu(local.movedim(1, -1).unflatten(0, x.shape[:2])))
    torch.testing.assert_close(block([x])[0], expected)


def test_temporal_level_audio_gathers_the_clip(maps, audio):
    visual, audio = maps[2].requires_grad_(), audio.requires_grad_()
    out = double(V2AFusionBlock(8, "temporal", options=OPTIONS))(visual, audio)
    for t in range(3):
        seen_v, seen_a = reach(out[0, t].sum(), [visual, audio])
        assert seen_v[0].all() and not seen_v[1].any()
        assert seen_a[0].all() and not seen_a[1].any()


def test_a2v_pixels_gather_all_audio(maps, audio):
    visual, audio = maps[1].requires_grad_(), audio.requires_grad_()
    out = double(A2VFusionBlock(8, options=OPTIONS))(visual, audio)
    assert out.shape == visual.shape
    for t, y, x in ((0, 0, 0), (1, 3, 2), (2, 7, 3)):
        seen_v, seen_a = reach(out[1, t, y, x].sum(), [visual, audio])
        assert seen_a[1].all() and not seen_a[0].any()
        assert seen_v[1].any() and not seen_v[0].any()


@pytest.mark.parametrize("level", ["frame", "temporal"])
def test_v2a_order_of_the_visual_tokens_matters(maps, audio, level):
    """A permutation of the pixels changes the audio tokens: the scan does read the tokens in sequence."""
    block = double(V2AFusionBlock(8, level, options=OPTIONS))
    assert not torch.allclose(block(maps[2], audio), block(maps[2].flip(2), audio))


def test_audio_last_is_not_audio_first(maps, audio):
    """Were the audio tokens first in any direction of the frame-level scan, that direction's share would be blind."""
    block = double(V2AFusionBlock(8, "frame", options=OPTIONS))
    visual = maps[2].requires_grad_()
    for k in range(4):
        only = torch.zeros(4, 1, 1, dtype=torch.float64)
        only[k] = 1
        block.ssm.x_proj_weight.data = torch.randn_like(block.ssm.x_proj_weight) * only
        block.ssm.D.data.zero_()
        (seen,) = reach(block(visual, audio)[0, 0].sum(), [visual])
        assert seen[0, 0].all(), f"direction {k}"


@pytest.mark.parametrize(
    "block",
    [
        VSSBlock(8, OPTIONS),
        TemporalMambaBlock(8, 4, "3d", OPTIONS),
        TemporalMambaBlock(8, 4, "2d", OPTIONS),
        MixFFN(8, options=OPTIONS),
    ],
    ids=["vss", "temporal-3d", "temporal-2d", "mix-ffn"],
)
def test_every_parameter_of_a_visual_block_learns(block, maps):
    block = double(block)
    assert_every_parameter_learns(block, block(maps[1:]))


@pytest.mark.parametrize(
    "block",
    [
        V2AFusionBlock(8, "frame", options=OPTIONS),
        V2AFusionBlock(8, "temporal", options=OPTIONS),
        A2VFusionBlock(8, options=OPTIONS),
        A2VFusionBlock(8, "3d", options=OPTIONS),
    ],
    ids=["v2a-frame", "v2a-temporal", "a2v", "a2v-3d"],
)
def test_every_parameter_of_a_fusion_block_learns(block, maps, audio):
    block = double(block)
    assert_every_parameter_learns(block, block(maps[2], audio))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="level: expected one of"):
        V2AFusionBlock(8, "clip")
    with pytest.raises(ValueError, match="frame_audio_context: expected one of"):
        V2AFusionBlock(8, "frame", frame_audio_context="second")
    with pytest.raises(ValueError, match="conv: expected one of"):
        depthwise_conv("4d", 8)
    with pytest.raises(ValueError, match="dt_rank"):
        VSSBlock(8, SSMOptions(dt_rank="half"))


def test_causal_conv_sees_the_past_only():
    x = torch.randn(1, 6, 4, requires_grad=True)
    (seen,) = reach(CausalConv1d(4, 3)(x)[0, 3].sum(), [x])
    assert seen[0].tolist() == [False, True, True, True, False, False]


def test_depthwise_conv3d_equals_a_plain_sum():
    conv = DepthwiseConv3d(2).double()
    x = torch.randn(1, 3, 4, 5, 2, dtype=torch.float64)
    t, y, z = 1, 2, 0
    expected = conv.bias.clone()
    for dt in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dz in (0, 1):
                expected = expected + conv.weight[:, 0, dt + 1, dy + 1, dz + 1] * x[0, t + dt, y + dy, z + dz]
    torch.testing.assert_close(conv(x)[0, t, y, z], expected)
