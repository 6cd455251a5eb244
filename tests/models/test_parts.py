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

SMALL = {"embed_dims": 8, "d_state": 2}


def test_encoder_changes_its_scales_and_passes_the_finest(maps):
    encoder = MultiScaleTemporalEncoder(**SMALL).double()
    out = encoder(maps)
    assert out[0] is maps[0]
    assert [o.shape for o in out] == [m.shape for m in maps]
    assert all(not torch.equal(o, m) for o, m in zip(out[1:], maps[1:], strict=True))
    assert_every_parameter_learns(encoder, out[1:])


@pytest.mark.parametrize(("vss", "temporal", "count"), [(True, True, 4), (True, False, 2), (False, True, 2)])
def test_encoder_blocks_can_be_switched_off(vss, temporal, count):
    encoder = MultiScaleTemporalEncoder(**SMALL, vss=vss, temporal_mamba=temporal)
    assert len(encoder.blocks) == count


def test_encoder_without_blocks_is_refused():
    with pytest.raises(ValueError, match="encoder: null"):
        MultiScaleTemporalEncoder(**SMALL, vss=False, temporal_mamba=False)


def test_decoder_makes_one_query_a_frame(maps, audio):
    decoder = ModalityAggregationDecoder(**SMALL).double()
    query = decoder(maps, audio)
    assert query.shape == (2, 3, 1, 8)
    assert_every_parameter_learns(decoder, query)


def test_decoder_reads_scales_2_to_4_only(maps, audio):
    decoder = ModalityAggregationDecoder(**SMALL, num_layers=1).double()
    maps = [m.requires_grad_() for m in maps]
    grads = torch.autograd.grad(decoder(maps, audio).sum(), maps, allow_unused=True)
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
    assert decoder(maps, audio).shape == (2, 3, 1, 8)


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
