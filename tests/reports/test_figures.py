"""The figures' tools: files that hold what they should, and one line for each fault."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avsmamba.config.load import load_config, parse_options
from avsmamba.datasets import AVSBenchAVSS, AVSBenchMS3
from avsmamba.datasets.palette import PALETTE
from avsmamba.registry import MODELS
from avsmamba.reports.complexity import complexity, measure, memory, short_names
from avsmamba.reports.features import run, visualize_features, without_padding
from avsmamba.reports.qualitative import parse_predictions, qualitative
from avsmamba.utils import UserError
from avsmamba.visualization.canvas import PREDICTION, TRUTH
from tests.small_model import CONFIG, SMALL, write_checkpoint


def pixels(path, colour):
    return int((np.asarray(Image.open(path)) == np.array(colour, np.uint8)).all(-1).sum())


# Features (Fig. 9)


def test_features_of_clips_by_name_and_by_number(shapes, checkpoint, tmp_path):
    names = [clip.name for clip in AVSBenchMS3(shapes, "test").clips]
    files = visualize_features(
        CONFIG, checkpoint, tmp_path, [names[2]], scale=2, audio="silence", options=SMALL, data_root=str(shapes)
    )
    assert [p.name for p in files] == [f"{names[2]}.png"]
    picture = np.asarray(Image.open(files[0]))
    assert picture.shape[0] > 5 * 176 and picture.shape[1] > 5 * 176
    assert pixels(files[0], TRUTH) > 100
    files = visualize_features(CONFIG, checkpoint, tmp_path, num_clips=2, options=SMALL, data_root=str(shapes))
    assert [p.stem for p in files] == [names[0], names[2]]


def test_before_and_after_are_what_enters_and_leaves_the_pyramid(shapes):
    model = MODELS.build(load_config(CONFIG, parse_options(SMALL)).model).eval()
    item = AVSBenchMS3(shapes, "test", [{"type": "Resize", "size": [32, 48]}])[0]
    before, after, sample = run(model, item, 2)
    # 48 pixels were padded to 64: 4 maps of stride 4 to 32, the padding's columns cut.
    assert before.shape == (5, 4, 6, 8) and after.shape == (5, 8, 12, 8)
    with torch.no_grad():
        data = model.data_preprocessor({"frames": [item["frames"]], "log_mel": [item["log_mel"]]})
        _, features = model.extract(data["frames"], data["log_mel"])
    np.testing.assert_allclose(after, features[0, :, :, :12], atol=1e-6)
    assert sample.pred_logits.shape == (5, 1, 40, 40) and not model.pyramid._forward_hooks


def test_padding_is_cut():
    features = np.arange(16.0).reshape(1, 4, 4, 1)
    assert without_padding(features, 1.0, 0.5)[0, :, :, 0].tolist() == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert without_padding(features, 0.01, 0.01).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 5}, "--scale: expected 1, 2, 3 or 4, got 5"),
        ({"clips": ["a", "b"]}, "--clips: no clip a, b in"),
        ({"num_clips": 0}, "--num-clips: expected at least 1"),
        ({"audio": "loud"}, "--audio: expected one of real"),
        ({"checkpoint": "none.pth"}, "none.pth: no such checkpoint"),
        ({"options": [*SMALL, "model.pyramid=null"]}, "model.pyramid is null"),
    ],
)
def test_faults_of_features(shapes, checkpoint, tmp_path, change, words):
    arguments = {"checkpoint": checkpoint, "out": tmp_path, "options": SMALL, "data_root": str(shapes), **change}
    with pytest.raises(UserError, match=words):
        visualize_features(CONFIG, **arguments)


# Masks of several models (Fig. 6 to 8)


@pytest.fixture(scope="module")
def masks(shapes, tmp_path_factory, request):
    """The truth and its opposite as the masks of two models, in the layout of tools/test.py --out."""
    root = tmp_path_factory.mktemp("masks")
    for subset in ("Multi-sources/ms3_data/gt_masks", "Single-source/s4_data/gt_masks"):
        for name in ("right", "wrong"):
            shutil.copytree(shapes / subset, root / name / subset)
        for file in (root / "wrong" / subset).rglob("*.png"):
            Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    return root


@pytest.mark.parametrize("subset", ["ms3", "s4"])
def test_a_grid_of_models(shapes, masks, tmp_path, subset):
    config = CONFIG.with_name(f"avs_mamba_tiny_{subset}_shapes.yaml")
    one, two = (
        qualitative(config, {"A": str(masks / name)}, tmp_path / f"{name}.png", num_clips=1, data_root=str(shapes))
        for name in ("right", "wrong")
    )
    assert pixels(one, TRUTH) == pixels(one, PREDICTION) > 100
    assert pixels(two, PREDICTION) > pixels(two, TRUTH)
    # Two clips beside each other and one below them; a row more for a second model.
    both = {"A": str(masks / "right"), "B": str(masks / "wrong")}
    clips = {"clips": [AVSBenchMS3(shapes, "test").clips[i].name for i in (0, 2, 1)]} if subset == "ms3" else {}
    three = qualitative(config, both, tmp_path / "three.png", **clips, across=2, data_root=str(shapes))
    sizes = [Image.open(path).size for path in (one, three)]
    assert sizes[1][0] == 2 * sizes[0][0] and sizes[1][1] > (2 if subset == "ms3" else 1) * sizes[0][1]


def spoiled(masks, tmp_path, lost):
    """The truth as masks, from which the first `lost[clip]` columns of a frame's masks are turned around."""
    root = shutil.copytree(masks / "right", tmp_path / "spoiled")
    for clip, columns in lost.items():
        for file in (root / "Multi-sources/ms3_data/gt_masks/test" / clip).glob("*.png"):
            mask = np.asarray(Image.open(file)).copy()
            mask[:, :columns] = 255 - mask[:, :columns]
            Image.fromarray(mask).save(file)
    return root


def test_the_worst_clips_and_their_scores(shapes, masks, tmp_path, capsys):
    data = AVSBenchMS3(shapes, "test")
    names = [clip.name for clip in data.clips]
    lost = {0: 12, 1: 20, 3: 40}
    root = spoiled(masks, tmp_path, {names[place]: columns for place, columns in lost.items()})
    both = {"A": str(root), "B": str(masks / "right")}
    file = qualitative(CONFIG, both, tmp_path / "x.png", worst=3, across=1, data_root=str(shapes))
    expected = {}
    for place, columns in lost.items():
        truth = data[place]["data_samples"].gt_masks.numpy() > 0
        predicted = truth.copy()
        predicted[:, :, :columns] ^= True
        frames = [
            (~p & ~t).mean() if not t.any() else (p & t).sum() / (p | t).sum()
            for p, t in zip(predicted, truth, strict=True)
        ]
        expected[names[place]] = float(np.mean(frames))
    expected = dict(sorted(expected.items(), key=lambda pair: pair[1]))
    with Image.open(file) as picture:
        found = json.loads(picture.text["worst"])
        plain = qualitative(CONFIG, both, tmp_path / "y.png", clips=list(expected), across=1, data_root=str(shapes))
        with Image.open(plain) as other:
            assert picture.size == other.size and np.any(np.asarray(picture) != np.asarray(other)), "titles differ"
            assert "worst" not in other.text
    assert list(found) == list(expected) and found == pytest.approx(expected, abs=1e-6)
    assert len({round(score, 3) for score in found.values()}) == 3 and max(found.values()) < 0.999
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"M_J {score:.3f}  {name}" for name, score in found.items()]
    # The first model is judged.
    swapped = dict(reversed(both.items()))
    file = qualitative(CONFIG, swapped, tmp_path / "z.png", worst=1, data_root=str(shapes))
    with Image.open(file) as picture:
        assert list(json.loads(picture.text["worst"]).values()) == [pytest.approx(1)]


def test_the_worst_clips_of_avss_and_of_s4(shapes, masks, tmp_path):
    data = AVSBenchAVSS(shapes, "test")
    lost = data.clips[1]
    for clip in data.clips:
        target = shutil.copytree(shapes / "AVSS" / clip.part / clip.name, tmp_path / "AVSS" / clip.part / clip.name)
        if clip is lost:
            for file in (target / "labels_semantic").glob("*.png"):
                Image.fromarray(np.zeros_like(np.asarray(Image.open(file)))).save(file)
    config = CONFIG.with_name("avs_mamba_tiny_avss_shapes.yaml")
    file = qualitative(config, {"A": str(tmp_path)}, tmp_path / "x.png", worst=1, data_root=str(shapes))
    truth = data[1]["data_samples"].gt_masks[: data.existing_frames(lost)].numpy()
    silent = (truth == 0).mean((1, 2))  # all is predicted as background; every other class scores 0
    classes = [c for c in np.unique(truth) if c]
    with Image.open(file) as picture:
        found = json.loads(picture.text["worst"])
    assert found == {lost.name: pytest.approx(silent.mean() / (1 + len(classes)), abs=1e-6)}
    config = CONFIG.with_name("avs_mamba_tiny_s4_shapes.yaml")
    file = qualitative(config, {"A": str(masks / "wrong")}, tmp_path / "y.png", worst=9, data_root=str(shapes))
    with Image.open(file) as picture:
        found = json.loads(picture.text["worst"])
    assert len(found) == 2 and max(found.values()) < 0.01


def test_avss_in_the_grid_and_in_the_features(shapes, tmp_path):
    config = CONFIG.with_name("avs_mamba_tiny_avss_shapes.yaml")
    data = AVSBenchAVSS(shapes, "test")
    for clip in data.clips:  # the truth as a model's masks
        shutil.copytree(shapes / "AVSS" / clip.part / clip.name, tmp_path / "masks/AVSS" / clip.part / clip.name)
    grid = qualitative(config, {"A": str(tmp_path / "masks")}, tmp_path / "x.png", num_clips=3, data_root=str(shapes))
    present = {int(i) for item in data for i in np.unique(item["data_samples"].gt_masks)} - {0}
    assert present and all(pixels(grid, PALETTE[i].tolist()) > 100 for i in present)
    checkpoint = write_checkpoint(tmp_path / "avss.pth", config=config)
    (short,) = [clip.name for clip in data.clips if data.existing_frames(clip) == 5][:1]
    (file,) = visualize_features(config, checkpoint, tmp_path, [short], options=SMALL, data_root=str(shapes))
    assert 5 * 200 < Image.open(file).width < 7 * 200, "padding is not drawn"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": "x.jpg"}, "--out: expected a name that ends with .png"),
        ({"across": 0}, "--across: expected at least 1"),
        ({"worst": -1}, "--worst: expected at least 1 clip, or 0 for none, got -1"),
        ({"worst": 1, "clips": ["a"]}, "--worst: chooses the clips itself; omit --clips"),
        ({"worst": 1, "predictions": {"A": "."}}, r"--pred A: .*_1\.png: no such file"),
        ({"predictions": {"A": "nowhere"}}, "--pred A: no such folder: nowhere"),
        ({"predictions": {"A": "."}}, r"--pred A: .*_1\.png: no such file; expected what tools/test.py --out writes"),
        ({"options": ["test_dataloader=null", "test_cfg=null", "test_evaluator=null"]}, "has no test_dataloader"),
    ],
)
def test_faults_of_the_grid(shapes, masks, tmp_path, change, words):
    arguments = {"predictions": {"A": str(masks / "right")}, "out": tmp_path / "x.png", **change}
    with pytest.raises(UserError, match=words):
        qualitative(CONFIG, data_root=str(shapes), **arguments)


def test_masks_of_another_size_and_a_name_that_is_taken(shapes, masks, tmp_path):
    broken = shutil.copytree(masks / "right", tmp_path / "broken")
    file = next((broken / "Multi-sources/ms3_data/gt_masks/test").rglob("*00000_3.png"))
    Image.new("L", (40, 38)).save(file)
    with pytest.raises(UserError, match=r"_3\.png: expected the labels' 40 x 40 pixels, got 38 x 40"):
        qualitative(CONFIG, {"A": str(broken)}, tmp_path / "x.png", num_clips=1, data_root=str(shapes))
    with pytest.raises(UserError, match="--pred truth: this name is reserved"):
        qualitative(CONFIG, {"truth": str(broken)}, tmp_path / "x.png", num_clips=1, data_root=str(shapes))


def test_words_of_the_command_line():
    assert parse_predictions(["A b=x=y", "C=z"]) == {"A b": "x=y", "C": "z"}
    for words, message in ((["A"], "NAME=DIR, got 'A'"), (["=x"], "NAME=DIR"), (["A=x", "A=y"], "occurs twice")):
        with pytest.raises(UserError, match=message):
            parse_predictions(words)


# Costs (Fig. 10)


def test_costs_of_a_small_model(tmp_path, capsys):
    rows = complexity([str(CONFIG)], [32], tmp_path, frames=2, repeats=1, device="cpu", options=SMALL)
    model = MODELS.build(load_config(CONFIG, parse_options(SMALL)).model)
    assert rows == json.loads((tmp_path / "complexity.json").read_text()) and len(rows) == 1
    row = rows[0]
    assert row["parameters"] == sum(p.numel() for p in model.parameters()) > row["backbone_parameters"] > 0
    assert row["peak_GB"] >= row["before_GB"] > 0.05 and row["seconds"] > 0 and row["spread"] == 0
    text = (tmp_path / "complexity.md").read_text()
    assert text in capsys.readouterr().out
    assert "| avs_mamba_tiny_ms3_shapes | 32 |" in text and "2 frames" in text
    assert np.asarray(Image.open(tmp_path / "complexity.png")).std() > 0


def test_operations_grow_with_frames_and_pixels():
    small = parse_options(SMALL)
    flops = [
        measure(str(CONFIG), size, frames, 1, 1, "cpu", small)["GFLOP"] for size, frames in ((32, 1), (32, 2), (64, 2))
    ]
    assert flops[1] == pytest.approx(2 * flops[0], rel=0.01)
    assert flops[1] < flops[2] < 4 * flops[1]


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux's /proc")
def test_peak_memory_sees_what_is_allocated():
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = memory("cpu")
    held = np.ones(25_000_000)
    assert before + 0.19 < memory("cpu") < before + 0.3 and len(held)


def test_short_names_stay_different():
    assert short_names(["a/m_r50_ms3_224.yaml", "m_pvt_ms3_512.yaml"]) == ["m_r50", "m_pvt"]
    assert short_names(["m_r50_ms3_224.yaml", "m_r50_s4_224.yaml"]) == ["m_r50_ms3_224", "m_r50_s4_224"]
    assert short_names(["m_tiny_ms3_shapes.yaml"]) == ["m_tiny_ms3_shapes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": [224, 100]}, "--sizes: expected multiples of 32 pixels, got 100"),
        ({"repeats": 0}, "--repeats: expected at least 1"),
        ({"device": "tpu"}, "--device: expected cpu"),
        ({"configs": ["none.yaml"]}, "none.yaml: no such file"),
    ],
)
def test_faults_of_costs(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        complexity(**{"configs": [str(CONFIG)], "sizes": [32], "out": tmp_path, **change})
