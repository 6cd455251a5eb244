"""The parts of other authors' files that are a backbone or VGGish: names, what is idle, and the numbers they give."""

import ast

import pytest
import timm
import torch
import torchvision
from torch import nn

from avsmamba.checkpoint.pretrained import translate_part
from avsmamba.checkpoint.reading import compare
from avsmamba.model_zoo.public_models import recognise
from avsmamba.models.audio import VGGish
from avsmamba.models.backbones import TimmBackbone, VMamba
from tests.models.backbones.test_backbones import (
    assert_same_maps,
    loaded,
    original_pvt_name,
    randomise_norms,
    torchvision_maps,
)
from tests.models.public_models import FOLDER, shapes

LISTS = [f"avs_mamba_released_{name}" for name in ("pvt_object", "pvt_semantic", "r50_object", "r50_semantic")]


def listed(name):
    """Return random tensors by the names and shapes of a released file's list."""
    path = FOLDER / f"{name}.txt"
    lines = [line.partition(" ") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key: torch.randn(ast.literal_eval(shape)) for key, _, shape in lines}


def two_headed(resnet, prefix="", other=1.0):
    """Return a ResNet-50's tensors by the names of AVSBench's two-headed one; the second head's differ by `other`."""
    state = {}
    for name, value in resnet.state_dict().items():
        stage = name.split(".")[0]
        if stage == "fc":
            continue
        if stage in ("layer3", "layer4"):
            rest = name.removeprefix(stage)
            state[f"{prefix}{stage}_1{rest}"] = value
            state[f"{prefix}{stage}_2{rest}"] = value + other
        else:
            state[prefix + name] = value
    return state


@pytest.mark.parametrize("name", [name for name in LISTS if "pvt" in name])
def test_a_released_file_s_pvt_and_vggish_load_whole(name):
    state = listed(name)
    for part, prefix in (
        (TimmBackbone("pvt_v2_b5"), "vision_backbone."),
        (VGGish(), "audio_backbone."),
    ):
        tensors, idle = translate_part(part, state, prefix, name)
        fit = compare(part.state_dict(), tensors)
        assert not (fit.missing or fit.unexpected or fit.misfits) and not idle
        assert len(tensors) == len([k for k in state if k.startswith(prefix)]) == len(part.state_dict())


@pytest.mark.parametrize("name", [name for name in LISTS if "r50" in name])
def test_a_released_resnet_file_loads_whole(name):
    """Its list has no visual backbone; the names are those of AVSBench's two-headed ResNet-50."""
    state = listed(name) | two_headed(torchvision.models.resnet50(), "vision_backbone.")
    backbone = TimmBackbone("resnet50")
    tensors, idle = translate_part(backbone, state, "vision_backbone.", name)
    fit = compare(backbone.state_dict(), tensors)
    assert not (fit.missing or fit.unexpected or fit.misfits)
    assert idle == [k for k in state if k.startswith(("vision_backbone.layer3_2.", "vision_backbone.layer4_2."))]
    assert len(tensors) + len(idle) == len([k for k in state if k.startswith("vision_backbone.")])
    vggish = VGGish()
    assert set(translate_part(vggish, state, "audio_backbone.", name)[0]) == set(vggish.state_dict())


@torch.no_grad()
def test_the_first_head_runs():
    resnet = randomise_norms(torchvision.models.resnet50())
    backbone = TimmBackbone("resnet50").eval()
    tensors, _ = translate_part(backbone, two_headed(resnet, "vision_backbone."), "vision_backbone.", "file")
    backbone.load_state_dict(tensors)
    x = torch.randn(1, 3, 64, 96)
    assert_same_maps(backbone, torchvision_maps(resnet, x), x)


def test_names_that_are_no_part_of_it_stay_and_are_found_unexpected():
    state = two_headed(torchvision.models.resnet50(), "vision_backbone.") | {
        "vision_backbone.neck.weight": torch.ones(1)
    }
    del state["vision_backbone.layer3_1.0.conv1.weight"]
    backbone = TimmBackbone("resnet50")
    fit = compare(backbone.state_dict(), translate_part(backbone, state, "vision_backbone.", "file")[0])
    assert fit.missing == ["net.layer3.0.conv1.weight"] and fit.unexpected == ["net.neck.weight"]


def test_parts_that_are_not_in_the_file_are_missing():
    """Unlike a classifier's file, that of a whole model must hold the norms of VMamba's maps."""
    backbone = VMamba("v05_tiny_s1l8", depths=[1, 0, 0, 0])
    state = {f"vision_backbone.{k}": torch.ones(s) for k, s in shapes("vmamba_v05_tiny_s1l8", [1, 0, 0, 0]).items()}
    tensors, idle = translate_part(backbone, state, "vision_backbone.", "file")
    fit = compare(backbone.state_dict(), tensors)
    assert {k.split(".")[0] for k in fit.missing} == {"out_norms"} and len(fit.missing) == 8
    assert not fit.unexpected and len(idle) == 4 and all(k.startswith("vision_backbone.classifier.") for k in idle)


@pytest.mark.parametrize("prefix", ["", "vision_backbone.", "resnet.", "backbone."])
def test_the_resnet_of_avs_mamba_tpavi_and_avsegformer_as_a_checkpoint(tmp_path, prefix):
    resnet = randomise_norms(torchvision.models.resnet50())
    state = two_headed(resnet, prefix)
    if prefix:
        state |= {"tpavi_b1.W_z.0.weight": torch.ones(2)}
    x = torch.randn(1, 3, 32, 64)
    assert_same_maps(loaded(tmp_path, "resnet50", state), torchvision_maps(resnet, x), x)


@pytest.mark.parametrize("prefix", ["vision_backbone.", "encoder_backbone.", "backbone."])
def test_their_pvt_as_a_checkpoint(tmp_path, prefix):
    whole = randomise_norms(timm.create_model("pvt_v2_b1"))
    state = {prefix + original_pvt_name(k): v for k, v in whole.state_dict().items() if not k.startswith("head.")}
    x = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, intermediates_only=True)
    assert_same_maps(loaded(tmp_path, "pvt_v2_b1", state | {"fc.0.weight": torch.ones(2)}), expected, x)


@pytest.mark.parametrize("prefix", ["audio_backbone.", "vggish."])
def test_their_vggish_as_a_checkpoint(tmp_path, prefix):
    first = VGGish()
    torch.save(
        {prefix + k: v for k, v in first.state_dict().items()} | {"fc.0.weight": torch.ones(2)}, tmp_path / "v.pth"
    )
    second = VGGish(checkpoint=str(tmp_path / "v.pth"))
    second.init_weights()
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


@torch.no_grad()
def test_what_the_files_are():
    state = two_headed(torchvision.models.resnet50(), "resnet.") | {"tpavi_b1.g.weight": torch.ones(1)}
    kind = recognise(state)
    assert kind[:3] == ("ResNet", "resnet50", "TPAVI, by its authors")
    assert "tpavi_b1.g.weight" in kind.unused and "layer4_2.0.conv1.weight" in kind.unused
    state = {f"backbone.{k}": v for k, v in two_headed(torchvision.models.resnet50()).items()}
    kind = recognise(state | {"head.learnable_query.weight": torch.ones(1)})
    assert kind[:3] == ("ResNet", "resnet50", "AVSegFormer, by its authors")


# PVT-v2 b5 in timm, against the public model's settings.


def test_pvt_v2_b5_s_norms():
    """1e-6 before attention, before the MLP and at the end of a stage; torch's 1e-5 after patch embedding and `sr`."""
    net = TimmBackbone("pvt_v2_b5").net
    eps = {name: m.eps for name, m in net.named_modules() if isinstance(m, nn.LayerNorm)}
    loose = {name for name, value in eps.items() if value == 1e-5}
    assert set(eps.values()) == {1e-6, 1e-5}
    assert loose == {n for n in eps if n.endswith(("attn.norm", "downsample.norm", "patch_embed.norm"))}
    assert sum(n.startswith("stages_") and n.count(".") == 1 and n.endswith(".norm") for n in eps) == 4


@torch.no_grad()
def test_pvt_v2_s_maps_are_normed_and_so_is_what_the_next_stage_sees():
    backbone = TimmBackbone("pvt_v2_b0").eval()
    seen = []
    for stage in list(backbone.net.children())[2:]:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = backbone(torch.randn(1, 3, 64, 96))
    for m, following in zip(maps, seen, strict=False):
        torch.testing.assert_close(m.mean(1), torch.zeros_like(m[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(m.std(1, correction=0), torch.ones_like(m[:, 0]), atol=1e-2, rtol=0)
        assert torch.equal(m, following)


@pytest.mark.parametrize(("name", "blocks"), [("pvt_v2_b5", 52), ("resnet50", 16)])
def test_drop_path_grows_in_equal_steps(name, blocks):
    """As the public PVT-v2 has it: from 0 at the first block to the rate at the last; both branches have the same."""
    backbone = TimmBackbone(name, drop_path_rate=0.1)
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    each = len(rates) // (blocks - 1)
    assert rates == pytest.approx([0.1 * i / (blocks - 1) for i in range(1, blocks) for _ in range(each)])
    plain = [m for m in TimmBackbone(name).modules() if type(m).__name__ == "DropPath"]
    assert not any(m.drop_prob for m in plain)
