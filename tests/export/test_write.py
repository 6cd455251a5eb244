"""tools/export.py: the files agree with the model, say what they are, and are whole or not there."""

import importlib.util
import re
import runpy
import sys

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from avsmamba.config.load import load_config, parse_options
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.export import write as module
from avsmamba.export.run import ExportedModel
from avsmamba.inference.load import load_model
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests import ROOT
from tests.small_model import CONFIG, SMALL

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.timeout(900)  # the whole model is traced several times

# Every kind of scan once or twice: half of what it takes to make a graph goes with their number.
OPTIONS = [
    *(option for option in SMALL if option.startswith("model.")),
    "model.encoder.scales=[4]",
    "model.decoder.scales=[4]",
    "model.pyramid.temporal_mamba=false",
]
T = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small.pth"
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG, parse_options(OPTIONS)).model)
    torch.save({"state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def program(checkpoint):
    """Trace the model once for all tests; its weights are the checkpoint's each time."""
    model = load_model(CONFIG, checkpoint, "cpu", OPTIONS).model
    return module.trace(module.WholeModel(model).eval(), T, "config")


@pytest.fixture
def tool(monkeypatch, capfd, checkpoint, program):
    """Return a function that runs the tool: exit status, stdout, stderr."""
    monkeypatch.setattr(module, "trace", lambda whole, num_frames, config: program)

    def run(*arguments):
        command = ["export.py", str(CONFIG), str(checkpoint), "--num-frames", str(T), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", [*command, "--cfg-options", *OPTIONS])
        status = 0
        try:
            runpy.run_path(str(ROOT / "tools/export.py"), run_name="__main__")
        except SystemExit as left:
            status = left.code
        return (status, *capfd.readouterr())

    return run


def test_onnx_agrees_with_the_model_on_three_sizes(tool, monkeypatch, tmp_path, checkpoint):
    out = tmp_path / "model.onnx"
    status, text, errors = tool("--out", out, "--check")
    assert (status, errors) == (0, "") and text.count("deviation") == 3 and "checked" in text
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    exported = ExportedModel(out)
    assert exported.metadata["config"] == CONFIG.name and exported.metadata["class_names"] == ["sounding"]
    assert exported.metadata["num_frames"] == T and exported.metadata["mean"][0] == pytest.approx(123.675)
    graph = onnx.load(out)
    assert [(d.domain, d.version) for d in graph.opset_import if d.domain == ""] == [("", module.OPSET)]
    assert not graph.functions and {n.domain for n in graph.graph.node} == {""}
    assert sum(n.op_type == "Scan" for n in graph.graph.node) == 2 + 2 + 4
    names = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input]
    assert names == [["batch", T, 3, "height", "width"], ["batch", T, 1, 96, 64]]
    # A size that neither the trace nor the check has seen, against the model itself.
    clip = module.example((3, 64, 224), T, seed=9)
    whole = module.WholeModel(load_model(CONFIG, checkpoint, "cpu", OPTIONS).model).eval()
    with torch.no_grad():
        expected = whole(torch.from_numpy(clip["frames"]), torch.from_numpy(clip["log_mel"]))
    np.testing.assert_allclose(exported(**clip), expected.numpy(), atol=1e-4)
    for shape, words in (((1, 100, 96), "multiples of 32, at least 64"), ((1, 32, 96), "multiples of 32, at least 64")):
        with pytest.raises(ValueError, match=words):
            exported(**module.example(shape, T))
    with pytest.raises(ValueError, match=r"frames: expected \(B, 3, 3, H, W\), got \(1, 4,"):
        exported(**module.example((1, 64, 64), T + 1))
    with pytest.raises(ValueError, match="frames: expected uint8"):
        exported(clip["frames"].astype(np.float32), clip["log_mel"])
    with pytest.raises(ValueError, match="log_mel: expected"):
        exported(clip["frames"], clip["log_mel"][:1])
    the_page_s_code_runs(monkeypatch, tmp_path, exported)


def the_page_s_code_runs(monkeypatch, folder, exported):
    """Compare the code of docs/export.md, which does not import avsmamba, with our own."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), flags=re.DOTALL)
    assert "avsmamba" not in code
    frames = module.example((1, 64, 96), T, seed=3)["frames"]
    (folder / "frames").mkdir()
    for i, frame in enumerate(frames[0]):
        Image.fromarray(frame.transpose(1, 2, 0)).save(folder / "frames" / f"{i}.png")
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000 * T)
    soundfile.write(folder / "sound.wav", wave, 16000, subtype="DOUBLE")
    monkeypatch.chdir(folder)
    names = {}
    exec(code, names)
    patches = log_mel_patches(np.pad(wave, (0, 16000)), 16000)[:T].numpy()
    np.testing.assert_allclose(names["patches"], patches, atol=1e-5)
    np.testing.assert_allclose(names["logits"], exported(frames, patches[None]), atol=1e-4)
    assert names["masks"].shape == (T, 64, 96)


def test_a_torch_export_file_agrees_in_a_fresh_process(tool, tmp_path):
    out = tmp_path / "model.pt2"
    status, text, errors = tool("--format", "torch-export", "--out", out, "--check")
    assert (status, errors) == (0, "") and text.count("deviation") == 3
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    exported = ExportedModel(out)
    assert exported.metadata["num_frames"] == T
    with pytest.raises(ValueError, match="multiples of 32"):
        exported(**module.example((1, 96, 50), T))


def test_a_file_that_deviates_is_not_written(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "run_exported", wrong)
    out = tmp_path / "model.pt2"
    status, _, errors = tool("--format", "torch-export", "--out", out, "--check")
    assert status == 2 and "not written: deviates from the model by" in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def wrong(path, clips, threads):
    shapes = [clip["frames"].shape for clip in clips]
    return [np.full((b, t, 1, h, w), 7, np.float32) for b, t, _, h, w in shapes]


def test_what_cannot_be_exported_is_named(program, monkeypatch, tmp_path, checkpoint):
    from avsmamba.export import onnx_operators

    table = onnx_operators.translations()
    table.pop(torch.ops.avsmamba.depthwise_conv.default)
    monkeypatch.setattr(onnx_operators, "translations", lambda: table)
    named = r"config: model.encoder \(MultiScaleTemporalEncoder\) cannot be written as ONNX: .*depthwise_conv"
    with pytest.raises(UserError, match=named):
        module.write_onnx(program, tmp_path / "model.onnx", {"one_clip": False}, "config")
    model = load_model(CONFIG, checkpoint, "cpu", OPTIONS).model
    monkeypatch.setattr(type(model.backbone), "forward", lambda self, x: [x] * int(x.sum()))
    with pytest.raises(UserError, match=r"config: model.backbone \(SmallConvBackbone\) cannot be exported: "):
        module.trace(module.WholeModel(model).eval(), T, "config")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "model.pt2"], "--out: expected a name ending in .onnx for onnx, got 'model.pt2'"),
        (["--out", "model.onnx", "--num-frames", "0"], "--num-frames: expected at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit(tool, arguments, words):
    status, _, errors = tool(*arguments)
    assert status == 2 and errors == f"error: {words}\n"


def test_missing_packages_are_named(tool, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    status, _, errors = tool("--out", tmp_path / "model.onnx")
    assert (status, errors) == (2, "error: --format onnx: onnxscript missing: pip install avsmamba[onnx]\n")


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".txt"])
def test_a_foreign_file_is_one_line(tmp_path, suffix):
    with pytest.raises(UserError, match="no such file"):
        ExportedModel(tmp_path / f"none{suffix}")
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(b"\x08\x07noise" * 50)
    with pytest.raises(UserError, match="damaged, or not written by|expected an .onnx or a .pt2") as error:
        ExportedModel(path)
    assert "\n" not in str(error.value)
