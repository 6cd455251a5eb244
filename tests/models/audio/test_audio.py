"""Audio encoders: VGGish against its definition written out, its file, and the small network."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule

from avsmamba.models.audio import AudioCNN, VGGish
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests.models.conftest import assert_every_parameter_learns

pytest_plugins = ["tests.models.log_lines"]

CONVS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
LINEARS = {0: (12288, 4096), 2: (4096, 4096), 4: (4096, 128)}


@pytest.fixture(scope="module")
def state():
    """Return a random state dict with the public file's names; the scale keeps some of the 128 features above zero."""
    generator = torch.Generator().manual_seed(3)
    shapes = {f"features.{i}": (o, c, 3, 3) for i, (c, o) in CONVS.items()}
    shapes |= {f"embeddings.{i}": (o, c) for i, (c, o) in LINEARS.items()}
    state = {}
    for name, shape in shapes.items():
        fan_in = torch.tensor(shape[1:]).prod()
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in).sqrt()
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vggish") / "vggish-10086976.pth"
    torch.save(state, path)
    return str(path)


def written_out(state, patches):
    """Run Hershey et al.'s network on (N, 1, 96, 64), the linear layer over height, width and channel in this order."""
    x = patches
    for i in CONVS:
        x = F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1).clamp_min(0)
        if i in (0, 3, 8, 13):
            x = F.max_pool2d(x, 2)
    weight = state["embeddings.0.weight"].view(4096, 6, 4, 512)
    x = torch.einsum("nchw,ohwc->no", x, weight) + state["embeddings.0.bias"]
    for i in (2, 4):
        x = x.clamp_min(0) @ state[f"embeddings.{i}.weight"].T + state[f"embeddings.{i}.bias"]
    return x.clamp_min(0)


def test_vggish_is_what_it_is_defined_as(state, checkpoint):
    encoder = VGGish(checkpoint=checkpoint, pretrained=True)
    assert encoder.state_dict().keys() == state.keys()
    encoder.init_weights()
    log_mel = torch.randn(2, 3, 1, 96, 64)
    features = encoder(log_mel)
    expected = written_out(state, log_mel.flatten(0, 1)).view(2, 3, 128)
    assert encoder.out_channels == 128
    assert (expected > 0).float().mean() > 0.2
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_vggish_is_frozen_unless_told_otherwise(checkpoint):
    encoder = VGGish(checkpoint=checkpoint)
    encoder.init_weights()
    encoder.train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(torch.randn(1, 1, 1, 96, 64, requires_grad=True)).requires_grad
    trained = VGGish(pretrained=False, frozen=False)
    assert trained.training
    assert_every_parameter_learns(trained, trained(torch.randn(1, 2, 1, 96, 64)))


def test_the_postprocessor_in_a_file_is_ignored_by_name(state, tmp_path, log_lines):
    extra = {"pproc.pca_eigen_vectors": torch.ones(128, 128), "pproc.pca_means": torch.ones(128, 1)}
    torch.save(state | extra, tmp_path / "v.pth")
    encoder = VGGish(checkpoint=str(tmp_path / "v.pth"))
    encoder.init_weights()
    assert torch.equal(encoder.embeddings[4].bias, state["embeddings.4.bias"])
    assert any("not used: pproc.pca_eigen_vectors, pproc.pca_means" in line for line in log_lines)


def test_missing_and_wrong_files_say_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"pretrained is true.*vggish-10086976\.pth.*pretrained: false"):
        VGGish(pretrained=True)
    encoder = VGGish(checkpoint=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth: no such.*vggish-10086976\.pth.*pretrained: false"):
        encoder.init_weights()
    torch.save({"features.0.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "none.pth")
    before = encoder.features[0].weight.clone()
    with pytest.raises(UserError, match=r"none\.pth: does not fit VGGish: .*missing .*vggish-10086976\.pth"):
        encoder.init_weights()
    assert torch.equal(encoder.features[0].weight, before)


def test_pretrained_false_needs_no_file(tmp_path, log_lines):
    for encoder in (VGGish(checkpoint=str(tmp_path / "none.pth"), pretrained=False), VGGish()):
        encoder.init_weights()
        assert "frozen at random weights" in log_lines.pop()


def test_a_model_loads_its_vggish_when_training_starts(state, checkpoint):
    class Model(BaseModule):
        def __init__(self):
            super().__init__()
            self.audio_encoder = MODELS.build({"type": "VGGish", "checkpoint": checkpoint})

    model = Model()
    model.init_weights()
    assert torch.equal(model.audio_encoder.features[13].weight, state["features.13.weight"])


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_audio_cnn(norm):
    encoder = AudioCNN(channels=[8, 16, 24], out_channels=40, norm=norm)
    features = encoder(torch.randn(2, 5, 1, 96, 64))
    assert features.shape == (2, 5, 40)
    assert encoder.out_channels == 40
    assert_every_parameter_learns(encoder, features)


def test_vggish_tokens_are_the_input_of_its_linear_layers(state, checkpoint):
    log_mel = torch.randn(2, 3, 1, 96, 64)
    encoder = VGGish(checkpoint=checkpoint, tokens=True)
    encoder.init_weights()
    tokens = encoder(log_mel)
    assert tokens.shape == (2, 3, 24, encoder.out_channels)
    assert [*encoder.state_dict()] == [k for k in state if k.startswith("features")]
    x = tokens.flatten(2) @ state["embeddings.0.weight"].T + state["embeddings.0.bias"]
    for i in (2, 4):
        x = x.clamp_min(0) @ state[f"embeddings.{i}.weight"].T + state[f"embeddings.{i}.bias"]
    torch.testing.assert_close(x.clamp_min(0), written_out(state, log_mel.flatten(0, 1)).view(2, 3, 128))


def test_audio_cnn_tokens():
    encoder = AudioCNN(channels=[8, 16, 24], out_channels=40, tokens=True).eval()
    log_mel = torch.randn(2, 5, 1, 96, 64)
    tokens = encoder(log_mel)
    assert tokens.shape == (2, 5, 12 * 8, 40)
    later, higher = log_mel.clone(), log_mel.clone()
    later[..., -8:, :] += 1
    higher[..., -8:] += 1
    change = [(encoder(x) - tokens).abs().amax(-1)[0, 0].view(12, 8).detach() for x in (later, higher)]
    assert change[0][-1].min() > 0 and change[0][:9].max() == 0
    assert change[1][:, -1].min() > 0 and change[1][:, :5].max() == 0
    assert_every_parameter_learns(encoder, tokens)


@pytest.mark.parametrize("make", [AudioCNN, lambda: VGGish(frozen=False)])
def test_each_second_is_encoded_alone(make):
    encoder = make().eval()
    log_mel = torch.randn(2, 3, 1, 96, 64)
    other = log_mel.clone()
    other[1, 2] += 1
    change = (encoder(other) - encoder(log_mel)).detach().abs().amax(-1)
    assert (change > 0).nonzero().tolist() == [[1, 2]]


def test_audio_cnn_tells_loudness_and_pitch():
    """Batch normalisation keeps the level, and a tone's band is not averaged away."""
    encoder = AudioCNN().eval()
    patches = torch.full((1, 4, 1, 96, 64), -4.6)
    patches[0, 1] += 2
    patches[0, 2, :, :, 10] += 4
    patches[0, 3, :, :, 42] += 4
    with torch.no_grad():
        silence, noise, low, high = encoder(patches)[0]
    scale = silence.norm() + noise.norm()
    assert (noise - silence).norm() > 0.05 * scale
    assert (low - high).norm() > 0.5 * ((low - silence).norm() + (high - silence).norm()) / 2


@pytest.mark.parametrize("make", [AudioCNN, VGGish])
@pytest.mark.parametrize("shape", [(5, 1, 96, 64), (1, 5, 1, 64, 96), (1, 5, 2, 96, 64)])
def test_wrong_shapes(make, shape):
    with pytest.raises(ValueError, match=r"log_mel: expected \(B, T, 1, 96, 64\), got"):
        make()(torch.zeros(shape))


@pytest.mark.parametrize("channels", [[], [8] * 6])
def test_audio_cnn_errors(channels):
    with pytest.raises(ValueError, match="channels: expected one to five"):
        AudioCNN(channels=channels)
