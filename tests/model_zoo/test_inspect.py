"""tools/inspect_checkpoint.py: what it says of files, of their fit with a config, and its exit status."""

import pickle
import runpy
import sys

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from avsmamba.model_zoo.inspect import inspect_checkpoint
from avsmamba.model_zoo.public_models import recognise
from avsmamba.models.audio import VGGish
from avsmamba.registry import MODELS
from tests import ROOT
from tests.models.backbones.test_backbones import original_pvt_name
from tests.models.public_models import LISTS, shapes
from tests.models.test_segmentor import TINY, build


@pytest.fixture
def inspect(monkeypatch, capsys):
    """Return a function that runs the tool: exit status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["inspect_checkpoint.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "tools/inspect_checkpoint.py"), run_name="__main__")
        return (int(left.value.code), *capsys.readouterr())

    return run


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a config with another backbone and the tiny model's other parts."""

    def write(backbone):
        path = tmp_path / "config.yaml"
        path.write_text(f"_base_: {TINY}\nmodel:\n  backbone: {{_delete_: true, {backbone}}}\n")
        return path

    return write


def meta_state(name):
    return {k: torch.empty(s, device="meta") for k, s in shapes(name).items()}


@pytest.mark.parametrize("name", LISTS)
def test_mamba_models_are_recognised(name):
    family, _, model = name.partition("_")
    kind = recognise(meta_state(name))
    assert kind.family.lower() == family and kind.model == model and kind.around is None
    assert len(kind.unused) == (4 if family == "vmamba" else 2)


def torchvision_state(kind):
    if kind == "imagenet":
        return torchvision.models.resnet50().state_dict()
    make = {
        "fcn": torchvision.models.segmentation.fcn_resnet50,
        "deeplabv3": torchvision.models.segmentation.deeplabv3_resnet50,
        "faster": torchvision.models.detection.fasterrcnn_resnet50_fpn,
        "mask": torchvision.models.detection.maskrcnn_resnet50_fpn,
    }[kind]
    state = make(weights=None, weights_backbone=None).state_dict()
    frozen_norms = kind in ("faster", "mask")
    return {k: v for k, v in state.items() if not (frozen_norms and k.endswith("num_batches_tracked"))}


@pytest.mark.parametrize(
    ("kind", "around"),
    [
        ("imagenet", None),
        ("fcn", "torchvision's FCN"),
        ("deeplabv3", "torchvision's DeepLabV3"),
        ("faster", "torchvision's Faster R-CNN"),
        ("mask", "torchvision's Mask R-CNN"),
    ],
)
def test_torchvision_s_resnet50_is_recognised(kind, around):
    with torch.device("meta"):
        state = torchvision_state(kind)
    found = recognise(state)
    assert (found.family, found.model, found.around) == ("ResNet", "resnet50", around)
    assert not any("layer" in name and "layer_blocks" not in name for name in found.unused)


def test_pvt_and_vggish_are_recognised():
    with torch.device("meta"):
        pvt, vggish = timm.create_model("pvt_v2_b2").state_dict(), VGGish(pretrained=False).state_dict()
    for state in (pvt, {original_pvt_name(k): v for k, v in pvt.items()}):
        assert recognise(state)[:3] == ("PVT-v2", "pvt_v2_b2", None)
    pca = {"pproc.pca_means": torch.empty(128, 1, device="meta")}
    assert recognise(vggish | pca) == ("VGGish", "torchvggish", None, ["pproc.pca_means"])


def test_what_is_not_known():
    state = meta_state("vim_tiny")
    del state["norm_f.weight"]
    assert recognise(state)[:2] == ("Vim", None)
    assert recognise({"x": torch.ones(1)}) == (None, None, None, [])


def test_a_public_file_and_the_config_that_starts_from_it(tmp_path, inspect, config):
    state = {k: torch.zeros(s) for k, s in shapes("vim_tiny").items()}
    torch.save(
        {"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 299, "optimizer": {}}, tmp_path / "v.pth"
    )
    status, out, err = inspect(tmp_path / "v.pth", config("type: Vim, arch: tiny"))
    assert (status, err) == (0, "")
    for line in (
        f"{tmp_path / 'v.pth'}: Vim tiny",
        "  form: torch.save, tensors under 'model'",
        "  prefix: 'module.' (DataParallel), removed",
        "  tensors: 415, 7,148,008 numbers, 28.6 MB, float32 (415)",
        "  beside them: epoch, optimizer",
        "  epoch: 299",
        "  not part of tiny: head.weight, head.bias",
        f"{tmp_path / 'config.yaml'}: compared with model.backbone (Vim tiny)",
        "  matching: 413",
        "  missing: 0",
        "  not part of it, not used: 2",
        "  it fits",
    ):
        assert line in out.splitlines(), line
    for key in ("norm_f.weight", "layers.5.mixer.D_b"):
        del state[key]
    state |= {"cls_token": torch.zeros(1, 1, 5), "layers.0.mixer.odd": torch.zeros(1)}
    save_file(state, tmp_path / "v.safetensors")
    status, out, err = inspect(tmp_path / "v.safetensors", config("type: Vim, arch: tiny"))
    assert (status, err) == (1, "")
    text = " ".join(out.split())
    for part in (
        "names as in Vim, but it fits no known Vim",
        "form: safetensors, tensors at the top",
        "missing: 2 blocks.5.ssms.1.D norm.weight",
        "unexpected: 1 layers.0.mixer.odd",
        "of another shape: 1 cls_token is (1, 1, 5), the model's (1, 1, 192)",
        "it does not fit",
    ):
        assert part in text, part


def test_a_checkpoint_of_the_whole_model(tmp_path, inspect, capsys):
    model = build()
    content = {"meta": {"epoch": 3, "iter": 40, "seed": 1}, "state_dict": model.state_dict(), "optimizer": {}}
    torch.save(content, tmp_path / "epoch_3.pth")
    assert inspect_checkpoint(tmp_path / "epoch_3.pth", TINY, every=True)
    out = capsys.readouterr().out
    assert "epoch_3.pth: a whole model of avsmamba\n" in out and "\n  iter: 40\n" in out
    assert "compared with the whole model (AVSSegmentor)" in out
    assert all(f"    {name}\n" in out for name in model.state_dict())
    status, out, err = inspect(tmp_path / "epoch_3.pth", TINY, "--cfg-options", "model.encoder=null")
    encoder = [k for k in model.state_dict() if k.startswith("encoder.")]
    assert (status, err) == (1, "") and f"unexpected: {len(encoder)}\n    {encoder[0]}\n" in out
    assert f"    … {len(encoder) - 20} more (--all lists them)" in out


def test_the_part_that_a_file_fits_is_found(tmp_path, capsys):
    """A VGGish file beside two parts that read public files; the weights of its own class need no translation."""
    path = tmp_path / "config.yaml"
    path.write_text(f"_base_: {ROOT / 'configs/avs_mamba/avs_mamba_r50_s4_512.yaml'}\n")
    with torch.device("meta"):
        state = VGGish(pretrained=False).state_dict()
    torch.save({k: torch.zeros(1).expand(v.shape) for k, v in state.items()}, tmp_path / "vggish.pth")
    assert inspect_checkpoint(tmp_path / "vggish.pth", path)
    assert "compared with model.audio_encoder (VGGish)\n  matching: 18\n" in capsys.readouterr().out
    torch.save({k: torch.zeros(1).expand(v.shape) for k, v in torchvision_state("mask").items()}, tmp_path / "m.pth")
    assert inspect_checkpoint(tmp_path / "m.pth", path)
    out = capsys.readouterr().out
    assert "torchvision's Mask R-CNN, in it ResNet resnet50\n" in out
    assert "compared with model.backbone (TimmBackbone resnet50)\n" in out and "it fits" in out
    small = MODELS.build({"type": "SmallConvBackbone"})
    torch.save(small.state_dict(), tmp_path / "small.pth")
    assert not inspect_checkpoint(tmp_path / "small.pth", path)


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_is_executed_and_faults_are_one_line(tmp_path, inspect, config):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))
    (tmp_path / "new.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=4))
    torch.save({"model": Payload()}, tmp_path / "evil.zip.pth")
    torch.save({"model": {"x": torch.ones(9)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:300])
    (tmp_path / "empty.pth").touch()
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name, said in (
        ("evil.pth", "holds more than weights; nothing was executed"),
        ("evil.zip.pth", "holds more than weights; nothing was executed"),
        ("new.pth", "not a checkpoint"),
        ("cut.pth", "cut short, damaged, or not a checkpoint"),
        ("empty.pth", "cut short, damaged, or not a checkpoint"),
        ("none.pth", "expected tensors by name (a state dict), found a dict with epoch"),
        ("absent.pth", "no such checkpoint file"),
    ):
        status, out, err = inspect(tmp_path / name)
        assert (status, out) == (2, ""), name
        assert err.startswith(f"error: {tmp_path / name}: ") and said in err and err.count("\n") == 1, err
    torch.save({"x": torch.ones(1)}, tmp_path / "x.pth")
    status, out, err = inspect(tmp_path / "x.pth", TINY)
    assert status == 2 and "x.pth: no known model" in out
    said = "does not contain the whole model, and none of its parts reads foreign files"
    assert err == f"error: {tmp_path / 'x.pth'}: {said}\n"
    status, out, err = inspect(tmp_path / "x.pth", config("type: Vim, arch: huge"))
    assert status == 2 and "arch: expected one of" in err
