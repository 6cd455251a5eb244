"""MTE, MAD, CIP, projection: shapes, switches, gradients."""

import pytest
import torch

from avsmamba.models import (
    ContextualIntegrationPyramid,
    ModalityAggregationDecoder,
    MultiScaleTemporalEncoder,
    Projection,
)
from tests.models.conftest import assert_every_parameter_learns

SMALL = {"embed_dims": 8, "d_state": 2, "drop_path": 0.0}


def test_encoder_changes_its_scales_and_passes_the_finest(maps):
    encoder = MultiScaleTemporalEncoder(**SMALL).double()
    out = encoder(maps)
    assert out[0] is maps[0]
    assert [o.shape for o in out] == [m.shape for m in maps]
    assert all(not torch.equal(o, m) for o, m in zip(out[1:], maps[1:], strict=True))
    assert_every_parameter_learns(encoder, out[1:])


@pytest.mark.parametrize(("vss", "temporal", "count"), [(True, True, 6), (True, False, 4), (False, True, 2)])
def test_encoder_blocks_can_be_switched_off(vss, temporal, count):
    encoder = MultiScaleTemporalEncoder(**SMALL, vss=vss, temporal_mamba=temporal)
    assert len(encoder.blocks) == count
    plain = MultiScaleTemporalEncoder(**SMALL, vss=vss, temporal_mamba=temporal, mix_ffn=False)
    assert len(plain.blocks) == (2 * vss + 2 * temporal)


def test_encoder_without_blocks_is_refused():
    with pytest.raises(ValueError, match="encoder: null"):
        MultiScaleTemporalEncoder(**SMALL, vss=False, temporal_mamba=False)


def test_decoder_makes_one_query_a_frame(maps, audio):
    decoder = ModalityAggregationDecoder(**SMALL).double()
    queries = decoder(maps, audio)
    assert [q.shape for q in queries] == [(2, 3, 1, 8)] * 2
    first = ModalityAggregationDecoder(**SMALL, num_layers=1).double()
    first.load_state_dict(decoder.state_dict(), strict=False)
    torch.testing.assert_close(first(maps, audio)[0], queries[0])
    assert_every_parameter_learns(decoder, queries[-1])


def test_decoder_visits_both_levels_of_a_scale_before_the_next(maps, audio):
    """Frame level, then temporal level at stride 8, then at 16, then at 32; or all scales of a level first."""
    for scale_by_scale, expected in ((True, "f2 t2 f3 t3 f4 t4"), (False, "f2 f3 f4 t2 t3 t4")):
        decoder = ModalityAggregationDecoder(**SMALL, num_layers=1, scale_by_scale=scale_by_scale).double()
        seen: list[tuple] = []

        def note(block, args, seen=seen):
            seen.append((block.level[0], args[0].shape[2:4]))

        for stage in decoder.stages:
            for block in stage:
                block.register_forward_pre_hook(note)
        decoder(maps, audio)
        scales = {tuple(m.shape[2:4]): i + 1 for i, m in enumerate(maps)}
        assert " ".join(f"{level}{scales[tuple(size)]}" for level, size in seen) == expected


def test_decoder_reads_scales_2_to_4_only(maps, audio):
    decoder = ModalityAggregationDecoder(**SMALL, num_layers=1).double()
    maps = [m.requires_grad_() for m in maps]
    grads = torch.autograd.grad(decoder(maps, audio)[-1].sum(), maps, allow_unused=True)
    assert [g is not None for g in grads] == [False, True, True, True]


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({}, 12),
        ({"frame_level": False}, 6),
        ({"temporal_level": False}, 6),
        ({"share_scales": True}, 4),
        ({"scales": (4,)}, 4),
    ],
)
def test_decoder_options(maps, audio, options, blocks):
    decoder = ModalityAggregationDecoder(**SMALL, **options).double()
    assert sum(len(stage) for stage in decoder.stages) == blocks
    assert decoder(maps, audio)[-1].shape == (2, 3, 1, 8)


def test_decoder_without_frame_level_has_only_temporal_blocks():
    decoder = ModalityAggregationDecoder(**SMALL, frame_level=False)
    assert {block.level for stage in decoder.stages for block in stage} == {"temporal"}
    with pytest.raises(ValueError, match="decoder: null"):
        ModalityAggregationDecoder(**SMALL, frame_level=False, temporal_level=False)


def test_pyramid_gives_features_at_the_finest_size(maps, audio):
    pyramid = ContextualIntegrationPyramid(**SMALL).double()
    out = pyramid(maps, audio)
    assert out.shape == (2, 3, 16, 8, 8)
    assert_every_parameter_learns(pyramid, out)


OLD = {"laterals": "after", "norm": "GN", "smooth_coarsest": False, "mask_kernel": 1}


@pytest.mark.parametrize("options", [{}, {"upsampling": "nearest"}, OLD], ids=str)
def test_pyramid_by_its_formula(maps, audio, options):
    """Blocks are identities here: laterals, upsampling and convolutions written out, scale by scale."""
    pyramid = ContextualIntegrationPyramid(**SMALL, temporal_mamba=False, a2v=False, **options).double()
    parts = pyramid.pyramid
    y = None
    for i in (3, 2, 1, 0):
        x = maps[i].flatten(0, 1).movedim(-1, 1)
        weight = parts.laterals[i].weight.view(8, 8, 1, 1)
        x = torch.nn.functional.conv2d(x, weight, getattr(parts.laterals[i], "bias", None))
        if y is not None:
            mode = options.get("upsampling", "bilinear")
            x = x + torch.nn.functional.interpolate(y, scale_factor=2, mode=mode)
        y = parts.smooth[i](x) if i < len(parts.smooth) else x
    kernel = options.get("mask_kernel", 3)
    expected = torch.nn.functional.conv2d(y, parts.mask_features.weight, parts.mask_features.bias, padding=kernel // 2)
    assert parts.mask_features.weight.shape[-1] == kernel
    torch.testing.assert_close(pyramid(maps, audio), expected.movedim(1, -1).unflatten(0, (2, 3)))
    assert_every_parameter_learns(pyramid, pyramid(maps, audio))


def test_pyramid_laterals_come_before_the_blocks(maps, audio):
    pyramid = ContextualIntegrationPyramid(**SMALL).double()
    seen = []
    for block in pyramid.fusion:
        block.register_forward_pre_hook(lambda b, args: seen.append(args[0]))
    pyramid(maps, audio)
    for lateral, m, found in zip(pyramid.pyramid.laterals, maps, seen, strict=True):
        torch.testing.assert_close(found, m @ lateral.weight.T)


def test_the_slip_runs_the_block_of_stride_8_at_stride_4(maps, audio):
    pyramid = ContextualIntegrationPyramid(**SMALL).double()
    own = pyramid(maps, audio)
    pyramid.repeat_stride_8 = True
    slip = pyramid(maps, audio)
    assert not torch.equal(own, slip)
    pyramid.repeat_stride_8 = False
    pyramid.fusion[0].temporal_mamba.load_state_dict(pyramid.fusion[1].temporal_mamba.state_dict())
    assert torch.equal(pyramid(maps, audio), slip)


@pytest.mark.parametrize(
    "options", [{"laterals": "both"}, {"norm": "BN"}, {"mask_kernel": 5}, {"upsampling": "bicubic"}], ids=str
)
def test_pyramid_refuses_unknown_options(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected one of"):
        ContextualIntegrationPyramid(**SMALL, **options)


@pytest.mark.parametrize(("temporal", "a2v"), [(True, False), (False, True), (False, False)])
def test_pyramid_listens_exactly_when_a2v_is_on(maps, audio, temporal, a2v):
    pyramid = ContextualIntegrationPyramid(**SMALL, temporal_mamba=temporal, a2v=a2v).double()
    changed = not torch.equal(pyramid(maps, audio), pyramid(maps, audio + torch.randn_like(audio)))
    assert changed == a2v
    moved = [m.clone() for m in maps]
    moved[0][:, 0] += torch.randn_like(moved[0][:, 0])
    other_frame_changed = not torch.equal(pyramid(maps, audio)[:, 2], pyramid(moved, audio)[:, 2])
    assert other_frame_changed == (temporal or a2v)


@pytest.mark.parametrize("norm, audio_norm", [("GN", "none"), ("none", "BN")])
def test_projection(norm, audio_norm):
    projection = Projection([3, 4, 5, 6], 7, 16, norm=norm, audio_norm=audio_norm)
    maps = [torch.randn(6, c, 8 // 2**i, 4, requires_grad=True) for i, c in enumerate((3, 4, 5, 6))]
    out, audio = projection(maps, torch.randn(2, 3, 7))
    assert [o.shape for o in out] == [(2, 3, 8 // 2**i, 4, 16) for i in range(4)]
    assert audio.shape == (2, 3, 16)
    assert_every_parameter_learns(projection, [*out, audio])


def test_audio_norm_takes_away_what_all_sounds_share():
    torch.manual_seed(0)
    projection = Projection([3], 7, 16, audio_norm="BN")
    audio, maps = torch.rand(4, 5, 7), [torch.randn(20, 3, 2, 2)]
    first, second = (projection(maps, 0.1 * audio + shared)[1] for shared in (0.0, 9.0))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)


def test_projection_refuses_unknown_norms():
    with pytest.raises(ValueError, match="^norm: expected one of"):
        Projection([3], 7, norm="BN")
    with pytest.raises(ValueError, match="^audio_norm: expected one of"):
        Projection([3], 7, audio_norm="GN")
