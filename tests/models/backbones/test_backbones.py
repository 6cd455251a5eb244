"""Backbones: shapes, foreign weights that give the foreign features, and errors a config can cause."""

import re

import pytest
import timm
import torch
import torchvision
from mmengine.model import BaseModule
from torch import nn

from avsmamba.models.backbones import SmallConvBackbone, TimmBackbone
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests.models.conftest import assert_every_parameter_learns

pytest_plugins = ["tests.models.log_lines"]

STRIDES = [4, 8, 16, 32]


def randomise_norms(model):
    """Randomise statistics and affine parameters, so that missing ones show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def loaded(tmp_path, name, state, **arguments):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    backbone = TimmBackbone(name, checkpoint=str(path), **arguments)
    backbone.init_weights()
    return backbone.eval()


@torch.no_grad()
def assert_same_maps(backbone, expected, x):
    maps = backbone(x)
    assert [tuple(m.shape) for m in maps] == [
        (len(x), c, x.shape[2] // s, x.shape[3] // s)
        for c, s in zip(backbone.out_channels, backbone.strides, strict=True)
    ]
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert theirs.std() > 0


def original_pvt_name(name):
    """Return timm's name of a PVT-v2 tensor in the release's terms (https://github.com/whai362/PVT)."""
    name = name.replace("patch_embed.", "patch_embed1.").replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
    name = re.sub(r"^stages\.(\d)\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}.", name)
    name = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.", name)
    return re.sub(r"^stages\.(\d)\.norm\.", lambda m: f"norm{int(m[1]) + 1}.", name)


@pytest.mark.parametrize(
    ("variant", "names"), [("b0", "timm"), ("b5", "timm"), *((f"b{i}", "original") for i in range(6))]
)
def test_pvt_v2_weights(tmp_path, variant, names):
    whole = randomise_norms(timm.create_model(f"pvt_v2_{variant}"))
    state = whole.state_dict()
    if names == "original":
        state = {original_pvt_name(k): v for k, v in state.items()}
        assert {"patch_embed1.proj.weight", "patch_embed4.norm.bias", "block1.0.attn.kv.weight", "norm4.weight",
                "block3.1.mlp.dwconv.dwconv.weight", "head.weight"} <= state.keys()  # fmt: skip
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, intermediates_only=True)
    assert_same_maps(loaded(tmp_path, f"pvt_v2_{variant}", state), expected, x)


@torch.no_grad()
def torchvision_maps(resnet, x):
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
    maps = []
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def coco_state(kind, resnet):
    """Return the state dict of a torchvision COCO model on this ResNet, as its files have it."""
    make = {
        "fcn": torchvision.models.segmentation.fcn_resnet50,
        "deeplabv3": torchvision.models.segmentation.deeplabv3_resnet50,
        "faster_rcnn": torchvision.models.detection.fasterrcnn_resnet50_fpn,
        "mask_rcnn": torchvision.models.detection.maskrcnn_resnet50_fpn,
    }[kind]
    arguments = {"aux_loss": True} if kind in ("fcn", "deeplabv3") else {}
    model = make(weights=None, weights_backbone=None, **arguments)
    prefix = "backbone." if arguments else "backbone.body."
    state = model.state_dict()
    state.update({prefix + k: v for k, v in resnet.state_dict().items() if prefix + k in state})
    # Frozen batch normalisation, which the released detectors have, keeps no counter.
    return {k: v for k, v in state.items() if arguments or not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("kind", ["imagenet", "fcn", "deeplabv3", "faster_rcnn", "mask_rcnn"])
def test_torchvision_resnet50_weights(tmp_path, kind):
    resnet = randomise_norms(torchvision.models.resnet50())
    state = resnet.state_dict() if kind == "imagenet" else coco_state(kind, resnet)
    x = torch.randn(1, 3, 64, 96)
    assert_same_maps(loaded(tmp_path, "resnet50", state), torchvision_maps(resnet, x), x)


def test_resnet18_weights_in_a_training_checkpoint(tmp_path):
    resnet = randomise_norms(torchvision.models.resnet18())
    state = {"epoch": 9, "state_dict": {f"module.{k}": v for k, v in resnet.state_dict().items()}}
    x = torch.randn(1, 3, 32, 64)
    assert_same_maps(loaded(tmp_path, "resnet18", state), torchvision_maps(resnet, x), x)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("convnext_atto", {}),
        ("convnext_tiny", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}),  # NHWC inside
        ("hiera_tiny_224", {}),  # wrapped whole, not cut
        ("mobilenetv3_small_050", {}),  # a class of its own for features
    ],
)
def test_other_families(tmp_path, name, arguments):
    whole = randomise_norms(timm.create_model(name, num_classes=7, **arguments))
    size = 224 if name.startswith("hiera") else 64
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, indices=4, intermediates_only=True, output_fmt="NCHW")
    assert_same_maps(loaded(tmp_path, name, whole.state_dict(), model_args=arguments), expected, x)


def test_original_convnext_names(tmp_path):
    whole = randomise_norms(timm.create_model("convnext_atto", conv_mlp=False))
    pairs = (("stem.", "downsample_layers.0."), (".blocks.", "."), ("conv_dw", "dwconv"), ("mlp.fc1", "pwconv1"),
             ("mlp.fc2", "pwconv2"), ("head.fc.", "head."), ("head.norm.", "norm."))  # fmt: skip
    state = {}
    for name, value in whole.state_dict().items():
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        for old, new in pairs:
            name = name.replace(old, new)
        state[name] = value
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, intermediates_only=True)
    assert_same_maps(loaded(tmp_path, "convnext_atto", {"model": state}, model_args={"conv_mlp": False}), expected, x)


def efficientnet_pytorch_names(whole):
    """Return timm's name of each EfficientNet tensor in EfficientNet-PyTorch's terms, block by block."""
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    parts = [("conv_pw", "_expand_conv"), ("bn1", "_bn0"), ("conv_dw", "_depthwise_conv"), ("bn2", "_bn1")]
    parts += [("conv_pwl", "_project_conv"), ("bn3", "_bn2"), ("se.conv_reduce", "_se_reduce")]
    expanded = dict([*parts, ("se.conv_expand", "_se_expand")])
    plain = expanded | {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
    number = 0
    for s, stage in enumerate(whole.blocks):
        for b, block in enumerate(stage):
            own = expanded if hasattr(block, "conv_pwl") else plain
            names |= {f"blocks.{s}.{b}.{k}": f"_blocks.{number}.{v}" for k, v in own.items()}
            number += 1
    return {k: names[k.rpartition(".")[0]] + "." + k.rpartition(".")[2] for k in whole.state_dict()}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_efficientnet_pytorch_names(tmp_path, name):
    whole = randomise_norms(timm.create_model(name))
    names = efficientnet_pytorch_names(whole)
    assert {"_blocks.0._project_conv.weight", "_blocks.15._bn2.bias", "_fc.bias"} <= {*names.values()}
    own = TimmBackbone(name)
    own.net.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    state = {names[k]: v for k, v in whole.state_dict().items()}
    assert_same_maps(loaded(tmp_path, name, state), own.eval()(x), x)
    with pytest.raises(UserError, match="_blocks.16"):
        loaded(tmp_path, name, state | {"_blocks.16._bn0.weight": torch.ones(2)})


def test_weights_in_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "some_weights" / "files"
    package.mkdir(parents=True)
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = TimmBackbone("resnet18")
    torch.save(source.net.state_dict(), package / "net.pth")
    backbone = TimmBackbone("resnet18", checkpoint="package:some_weights/files/net.pth")
    backbone.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), source.parameters(), strict=True))
    for place, said in (
        (
            "package:no_such_package/x.pth",
            "the package no_such_package is not installed; pip install 'no-such-package'",
        ),
        ("package:some_weights", "expected package:NAME/PATH"),
        ("package:some_weights/y.pth", "y.pth: no such checkpoint file"),
    ):
        with pytest.raises(UserError, match=said):
            TimmBackbone("resnet18", checkpoint=place).init_weights()


def test_a_model_loads_its_backbone_when_training_starts(tmp_path, log_lines):
    whole = timm.create_model("resnet18")
    torch.save(whole.state_dict(), tmp_path / "r.pth")

    class Model(BaseModule):
        def __init__(self):
            super().__init__()
            config = {"type": "TimmBackbone", "model_name": "resnet18", "checkpoint": str(tmp_path / "r.pth")}
            self.backbone = MODELS.build(config)

    model = Model()
    model.init_weights()
    assert torch.equal(model.backbone.net.conv1.weight, whole.conv1.weight)
    assert any("not used: fc.weight, fc.bias" in line for line in log_lines)
    assert any("resnet18: pretrained weights from" in line and "r.pth" in line for line in log_lines)


def test_files_that_do_not_fit(tmp_path):
    before = TimmBackbone("resnet18").net.state_dict()
    with pytest.raises(UserError, match=r"weights\.pth: does not fit .*missing .*unexpected"):
        loaded(tmp_path, "resnet18", timm.create_model("pvt_v2_b0").state_dict())
    with pytest.raises(UserError, match=r"weights\.pth: does not fit .*missing"):
        loaded(tmp_path, "pvt_v2_b0", timm.create_model("resnet18").state_dict())
    with pytest.raises(UserError, match=r"of another shape .*is \(64, 64, 1, 1\), the model's \(64, 64, 3, 3\)"):
        loaded(tmp_path, "resnet18", timm.create_model("resnet50").state_dict())
    state = timm.create_model("resnet18").state_dict()
    del state["layer4.1.conv2.weight"]
    with pytest.raises(UserError, match=r"1 missing \(layer4\.1\.conv2\.weight\)"):
        loaded(tmp_path, "resnet18", state)
    with pytest.raises(UserError, match=r"1 unexpected \(neck\.weight\)"):
        loaded(tmp_path, "resnet18", before | {"neck.weight": torch.ones(1)})
    backbone = TimmBackbone("resnet18", checkpoint=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint file"):
        backbone.init_weights()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model_name": "resnet5O"}, "timm has no 'resnet5O'; nearest: resnet50"),
        ({"model_name": "pvtv2_b5"}, "pvt_v2_b5"),
        ({"model_name": "vit_tiny_patch16_224"}, r"vit_tiny_patch16_224: expected maps at .* got \[16, 16, 16, 16\]"),
        ({"model_name": "resnet18", "out_indices": [0, 1, 2, 3]}, r"got \[2, 4, 8, 16\] .*leave out_indices out"),
        ({"model_name": "resnet18", "out_indices": [2, 3, 4]}, r"got \[8, 16, 32\]"),
        ({"model_name": "resnet18", "out_indices": [1, 2, 3, 9]}, "resnet18: timm cannot build it"),
        ({"model_name": "resnet18", "model_args": {"img": 3}}, "resnet18: timm cannot build it .*'img'"),
        ({"model_name": "vgg11", "drop_path_rate": 0.1}, "vgg11: timm cannot build it .*drop_path_rate"),
    ],
)
def test_models_that_do_not_fit(arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        TimmBackbone(**arguments)
    assert "\n" not in str(caught.value)


def test_drop_path_rate_reaches_the_model():
    rates = [m.drop_prob for m in TimmBackbone("pvt_v2_b0", drop_path_rate=0.3).modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.3)


def test_everything_trains_by_default():
    backbone = TimmBackbone("resnet18", model_args={"zero_init_last": False})
    assert backbone.training
    assert backbone.net.bn1.training
    mean = backbone.net.bn1.running_mean.clone()
    assert_every_parameter_learns(backbone, backbone(torch.randn(2, 3, 64, 64)))
    assert not torch.equal(backbone.net.bn1.running_mean, mean)


def test_norm_eval_keeps_the_statistics_and_trains_the_rest():
    backbone = TimmBackbone("resnet18", norm_eval=True, model_args={"zero_init_last": False})
    for _ in range(2):
        assert backbone.training
        assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
        backbone.eval()
        backbone.train()
    mean = backbone.net.bn1.running_mean.clone()
    assert_every_parameter_learns(backbone, backbone(torch.randn(2, 3, 64, 64)))
    assert torch.equal(backbone.net.bn1.running_mean, mean)


def test_frozen_backbone():
    backbone = TimmBackbone("resnet18", frozen=True)
    backbone.train()
    assert not any(m.training for m in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(m.requires_grad for m in backbone(torch.randn(1, 3, 32, 32, requires_grad=True)))


@pytest.mark.parametrize("name", ["pvt_v2_b0", "resnet18", "hiera_tiny_224"])
def test_grad_checkpointing_changes_no_gradient(name):
    plain = TimmBackbone(name, drop_path_rate=0.0)
    saving = TimmBackbone(name, drop_path_rate=0.0, grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    size = 224 if name.startswith("hiera") else 64
    x = torch.randn(2, 3, size, size)
    kept = []
    for backbone in (plain, saving):
        count = [0]
        weights = {p.data_ptr() for p in backbone.parameters()}

        def pack(t, count=count, weights=weights):
            count[0] += t.numel() * (t.data_ptr() not in weights)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = sum(m.square().mean() for m in backbone(x))
        kept.append(count[0])
        loss.backward()
    assert kept[1] < 0.7 * kept[0]
    for (key, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_small_backbone(norm):
    backbone = SmallConvBackbone(channels=[16, 24, 32, 40], depths=[1, 2, 0, 1], norm=norm)
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 16, 24), (2, 24, 8, 12), (2, 32, 4, 6), (2, 40, 2, 3)]
    assert (backbone.out_channels, backbone.strides) == ([16, 24, 32, 40], STRIDES)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)
    assert_every_parameter_learns(backbone, maps)


def test_small_backbone_group_norm_keeps_frames_apart():
    backbone = SmallConvBackbone(norm="GN")
    x = torch.randn(3, 3, 32, 32)
    for one, all_ in zip(backbone(x[1:2]), backbone(x), strict=True):
        torch.testing.assert_close(one, all_[1:2])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"channels": [8, 8]}, "channels: expected one for each of four stages"),
        ({"depths": [1] * 5}, "depths: expected one"),
        ({"norm": "LN"}, r"norm: expected one of \['BN', 'GN'\], got 'LN'"),
        ({"norm": "GN", "channels": [12, 16, 16, 16]}, "multiples of 8"),
    ],
)
def test_small_backbone_errors(arguments, said):
    with pytest.raises(ValueError, match=said):
        SmallConvBackbone(**arguments)
