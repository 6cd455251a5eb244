"""What goes beyond the paper: the gate of the temporal blocks, the sound in the backbone, the configs."""

import pytest
import torch

from avsmamba.config.load import load_config
from avsmamba.config.variants import Variants
from avsmamba.config.yaml_io import read
from avsmamba.models.layers.audio_gate import AudioGate
from avsmamba.models.modulation import AudioModulation
from tests import ROOT
from tests.models.test_segmentor import build, sample

TABLE = ROOT / "configs/plus.yaml"
GATED = {"model.encoder.audio_gate": True, "model.pyramid.audio_gate": True}


@pytest.fixture
def batch():
    return torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)


def test_the_gate_is_what_it_is_defined_as():
    gate = AudioGate(4).double()
    torch.nn.init.normal_(gate.linear.weight)
    before, after = (torch.randn(2, 3, 5, 6, 4, dtype=torch.float64) for _ in range(2))
    audio = torch.randn(2, 3, 4, dtype=torch.float64)
    (mixed,) = gate([before], [after], audio)
    for b in range(2):
        for t in range(3):
            weight = 1 / (1 + torch.exp(-(gate.linear.weight @ audio[b, t] + gate.linear.bias)))
            torch.testing.assert_close(mixed[b, t], before[b, t] + weight * (after[b, t] - before[b, t]))


def test_a_closed_gate_keeps_the_frames_apart(batch):
    """With the gates closed, a frame's maps in the encoder depend on no other frame."""
    model = build(GATED).eval()
    for gate in model.encoder.gates:
        torch.nn.init.constant_(gate.linear.bias, -1e4)
    frames, log_mel = batch
    other = frames.clone()
    other[:, 0] += 1
    maps, others = (model.encoder(*model.features(f, log_mel))[0] for f in (frames, other))
    for m, n in zip(maps, others, strict=True):
        torch.testing.assert_close(m[:, 1:], n[:, 1:])
        assert not torch.equal(m[:, 0], n[:, 0])
    opened = build().eval()
    assert not torch.equal(*(opened.encoder(opened.features(f, log_mel)[0])[2][:, 1:] for f in (frames, other)))


def test_the_gated_model_listens_frame_by_frame(batch):
    model = build(GATED)
    assert len(model.encoder.gates) == 2 and all(block.gate is not None for block in model.pyramid.fusion)
    sum(model(*batch, [sample(), sample()], mode="loss").values()).backward()
    gates = [*model.encoder.gates, *(block.gate for block in model.pyramid.fusion)]
    assert all(g.linear.weight.grad.abs().sum() > 0 and g.linear.bias.grad.abs().sum() > 0 for g in gates)


def test_without_a_temporal_block_there_is_no_gate(batch):
    options = {"model.encoder.temporal_mamba": False, "model.pyramid.temporal_mamba": False}
    model = build(GATED | options)
    assert not model.encoder.reads_audio and not any("gate" in n for n, _ in model.named_parameters())
    assert model(*batch).shape == (2, 3, 1, 16, 8)


def test_modulation_starts_at_nothing_and_is_what_it_is_defined_as():
    fusion = AudioModulation([4, 6, 8, 10], 5, 16, scales=(2, 4))
    x, audio = torch.randn(3, 6, 2, 2), torch.randn(3, 5)
    same, state = fusion.fuse(1, x, audio)
    assert torch.equal(same, x) and state is audio
    linear = fusion.outputs["1"]
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    scale, shift = linear(fusion.hidden(audio)).split(6, dim=1)
    expected = torch.stack([x[n] * (1 + scale[n, :, None, None]) + shift[n, :, None, None] for n in range(3)])
    torch.testing.assert_close(fusion.fuse(1, x, audio)[0], expected)
    y = torch.randn(3, 4, 2, 2)
    assert fusion.fuse(0, y, audio)[0] is y


def test_modulation_in_the_model_changes_later_maps_only(batch):
    plain = build().eval()
    model = build({"model.stage_fusion": {"type": "AudioModulation", "scales": [3]}}).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(model(*batch), plain(*batch), rtol=0, atol=0)
    torch.nn.init.normal_(model.stage_fusion.outputs["2"].weight)
    for i, (m, n) in enumerate(zip(model.features(*batch)[0], plain.features(*batch)[0], strict=True)):
        assert torch.equal(m, n) == (i < 2)


@pytest.mark.parametrize("name", Variants(TABLE, read(TABLE)).names())
def test_the_configs_of_the_table(name):
    config = load_config(f"{TABLE}#{name}")
    build(config=f"{TABLE}#{name}")
    hard = "hard" in config.train_dataloader.dataset.data_root
    assert hard and config.test_dataloader.dataset.data_root == config.train_dataloader.dataset.data_root
    size = config.test_dataloader.dataset.pipeline[0]["size"]
    assert (size, config.train_cfg.max_iters) == ((96, 3000) if name.startswith("hard") else (64, 400))


def test_the_named_config_is_the_table_s():
    named = load_config(str(ROOT / "configs/avs_mamba/avs_mamba_plus_ms3_shapes_hard.yaml"))
    assert named.to_dict() == load_config(f"{TABLE}#hard_plus").to_dict()
