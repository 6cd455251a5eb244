"""The hook's files: names, layout, values, and nothing half written."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from avsmamba.datasets.readers import read_class_colours, read_class_indices
from avsmamba.registry import HOOKS
from avsmamba.utils import UserError
from avsmamba.visualization import VisualizationHook
from tests.visualization.samples import batch

S4, MS3 = "Single-source/s4_data/gt_masks", "Multi-sources/ms3_data/gt_masks"


def run(hook, data, outputs):
    hook.before_test(None)
    hook.after_test_iter(None, 0, data, outputs)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_layout_and_values(tmp_path, subset):
    data, outputs = batch(subset, clips=2)
    hook = HOOKS.build(
        {"type": "VisualizationHook", "show_dir": str(tmp_path / "show"), "out_dir": str(tmp_path / "out")}
    )
    run(hook, data, outputs)
    folders = {
        "s4": [f"{S4}/test/cat_{i}/a-b_0000{i}" for i in (0, 1)],
        "ms3": [f"{MS3}/test/a-b_0000{i}" for i in (0, 1)],
    }
    names = [f"{folder}/a-b_0000{i}_{k}.png" for i, folder in enumerate(folders[subset]) for k in range(1, 6)]
    assert files(tmp_path / "out") == names
    for i, sample in enumerate(outputs):
        for k in range(5):
            mask = cv2.imread(str(tmp_path / "out" / names[5 * i + k]), cv2.IMREAD_UNCHANGED)
            assert mask.dtype == np.uint8 and mask.shape == (30, 44)
            assert np.array_equal(mask, (sample.pred_logits[k, 0].sigmoid() > 0.5).numpy() * 255)
    pictures = {"s4": ["cat_0/a-b_00000.png", "cat_1/a-b_00001.png"], "ms3": ["a-b_00000.png", "a-b_00001.png"]}
    assert files(tmp_path / "show") == pictures[subset]
    assert cv2.imread(str(tmp_path / "show" / pictures[subset][0])).shape[1] > 5 * 176


def test_p_of_one_half_is_background(tmp_path):
    data, outputs = batch()
    outputs[0].pred_logits = torch.zeros(5, 1, 30, 44)
    outputs[0].pred_logits[0, 0, 0, 0] = 1e-3
    run(VisualizationHook(out_dir=str(tmp_path)), data, outputs)
    masks = [cv2.imread(str(tmp_path / MS3 / f"test/a-b_00000/a-b_00000_{k}.png"), 0) for k in range(1, 6)]
    assert [int((m > 0).sum()) for m in masks] == [1, 0, 0, 0, 0]


def test_padded_frames_are_left_out(tmp_path):
    data, outputs = batch("s4", frames=4, exists=[True, True, False, False])
    run(VisualizationHook(show_dir=str(tmp_path / "show"), out_dir=str(tmp_path / "out")), data, outputs)
    assert [name[-5:] for name in files(tmp_path / "out")] == ["1.png", "2.png"]
    assert cv2.imread(str(tmp_path / "show/cat_0/a-b_00000.png")).shape[1] < 3 * 176 + 200


@pytest.mark.parametrize("audio", ["silence", "shuffle", "swap"])
def test_the_picture_says_what_the_model_heard(tmp_path, audio):
    for name in ("real", audio):
        run(VisualizationHook(show_dir=str(tmp_path / name)), *batch(audio=name))
    first, second = (cv2.imread(str(tmp_path / name / "a-b_00000.png")) for name in ("real", audio))
    rows = np.flatnonzero((first != second).any(axis=(1, 2)))
    assert rows.size and rows.max() < 40, "only the title differs"


def test_max_pictures_counts_places_in_the_data_set_not_calls(tmp_path):
    data, outputs = batch(clips=4)
    # as a second process would get them: clips 1 and 3
    second = {key: value[1::2] for key, value in data.items()}
    run(VisualizationHook(show_dir=str(tmp_path), out_dir=str(tmp_path / "out"), max_pictures=2), second, outputs[1::2])
    assert [name for name in files(tmp_path) if "/" not in name] == ["a-b_00001.png"]
    assert len(files(tmp_path / "out")) == 10


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    data, outputs = batch()

    def full(image, file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(UserError, match=r"a-b_00000_1\.png: cannot be written: No space left"):
        run(VisualizationHook(out_dir=str(tmp_path)), data, outputs)
    assert files(tmp_path) == []


def test_a_data_set_is_not_overwritten(tmp_path):
    (tmp_path / "Multi-sources/ms3_data/visual_frames").mkdir(parents=True)
    with pytest.raises(UserError, match="--out: .* holds a data set"):
        VisualizationHook(out_dir=str(tmp_path)).before_test(None)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "show").write_text("")
    with pytest.raises(UserError, match="show: cannot create the folder"):
        VisualizationHook(show_dir=str(tmp_path / "show")).before_test(None)


@pytest.mark.parametrize(
    "field, value, words",
    [("clip", "../x", "clip, category, split"), ("subset", "v2", "subset: expected 's4', 'ms3' or 'avss'")],
)
def test_names_that_do_not_fit(tmp_path, field, value, words):
    data, outputs = batch()
    outputs[0].set_metainfo({field: value})
    with pytest.raises(ValueError, match=words):
        run(VisualizationHook(out_dir=str(tmp_path / "out")), data, outputs)
    assert files(tmp_path) == []


def test_avss_is_written_in_indices_and_colours(tmp_path):
    exists = [True] * 5 + [False] * 2
    data, outputs = batch("avss", clips=2, frames=7, exists=exists)
    hook = VisualizationHook(show_dir=str(tmp_path / "show"), out_dir=str(tmp_path / "out"))
    run(hook, data, outputs)
    folders = [f"AVSS/v1m/a-b_0000{i}" for i in (0, 1)]
    kinds = ("labels_rgb", "labels_semantic")
    assert files(tmp_path / "out") == [f"{f}/{kind}/{t}.png" for f in folders for kind in kinds for t in range(5)]
    assert files(tmp_path / "show") == ["v1m/a-b_00000.png", "v1m/a-b_00001.png"]
    for folder, sample in zip(folders, outputs, strict=True):
        for t in range(5):
            labels = read_class_indices(tmp_path / "out" / folder / f"labels_semantic/{t}.png")
            assert np.array_equal(labels, sample.pred_labels[t])
            assert np.array_equal(read_class_colours(tmp_path / "out" / folder / f"labels_rgb/{t}.png"), labels)


def test_the_names_of_classes_come_from_the_data_set(tmp_path):
    data, outputs = batch("avss")
    dataset = SimpleNamespace(metainfo={"classes": ("background", "a", "b", "c", "d")})
    runner = SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)))
    pictures = []
    for given in (None, runner):
        hook = VisualizationHook(show_dir=str(tmp_path / str(given is None)))
        hook.before_test(given)
        hook.after_test_iter(None, 0, data, outputs)
        pictures.append(cv2.imread(str(next((tmp_path / str(given is None)).rglob("*.png")))))
    rows = np.flatnonzero((pictures[0] != pictures[1]).any(axis=(1, 2)))
    assert rows.size and rows.min() > len(pictures[0]) * 0.8, "only the legend differs"


def test_an_avss_data_set_is_not_overwritten(tmp_path):
    (tmp_path / "AVSS").mkdir()
    (tmp_path / "AVSS/metadata.csv").write_text("")
    with pytest.raises(UserError, match="--out: .* holds a data set"):
        VisualizationHook(out_dir=str(tmp_path)).before_test(None)


def test_models_and_data_that_do_not_fit(tmp_path):
    data, outputs = batch()
    outputs[0].pred_labels = torch.zeros(5, 30, 44)
    with pytest.raises(UserError, match="need a model of one class"):
        run(VisualizationHook(out_dir=str(tmp_path)), data, outputs)
    data, outputs = batch("avss")
    del outputs[0].pred_labels
    outputs[0].pred_logits = torch.zeros(5, 1, 30, 44)
    with pytest.raises(UserError, match="needs a model of several classes"):
        run(VisualizationHook(out_dir=str(tmp_path)), data, outputs)
    run(VisualizationHook(show_dir=str(tmp_path)), data, outputs)
    assert files(tmp_path) == ["v1m/a-b_00000.png"]
