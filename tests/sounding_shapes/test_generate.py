"""SoundingShapes: AVSBench's layout, the same bytes for the same seed, and nothing that sight alone could tell."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avsmamba.datasets import AVSBenchAVSS
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.datasets.readers import read_class_colours, read_class_indices
from avsmamba.sounding_shapes.generate import divide, make_sounding_shapes, parse_splits
from avsmamba.sounding_shapes.sounds import (
    CLASSES,
)
from avsmamba.utils import UserError

SPLITS = {"train": 3, "val": 2, "test": 2}
AVSS_SPLITS = {"train": 6, "val": 1, "test": 5}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for subset in ("s4", "ms3"):
        make_sounding_shapes(root, subset, SPLITS, size=48, seed=3)
    make_sounding_shapes(root, "avss", AVSS_SPLITS, size=48, seed=3)
    return root


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(shapes, tmp_path):
    make_sounding_shapes(tmp_path / "a", "ms3", SPLITS, size=48, seed=3, workers=2)
    first, second = files(shapes / "Multi-sources"), files(tmp_path / "a" / "Multi-sources")
    assert first == second
    make_sounding_shapes(tmp_path / "b", "ms3", SPLITS, size=48, seed=4)
    assert files(tmp_path / "b" / "Multi-sources") != first


def test_the_size_of_one_split_does_not_change_another(shapes, tmp_path):
    make_sounding_shapes(tmp_path, "ms3", {**SPLITS, "train": 1}, size=48, seed=3)
    few, many = files(tmp_path / "Multi-sources"), files(shapes / "Multi-sources")
    assert {k for k in few if "/test/" in k} and all(many[k] == v for k, v in few.items() if not k.endswith(".csv"))


def test_layout_of_s4(shapes):
    root = shapes / "Single-source"
    rows = list(csv.reader((root / "s4_meta_data.csv").open()))
    assert rows[0].index("split") == 3 and len(rows) == 1 + sum(SPLITS.values())
    for name, _, category, split, _ in rows[1:]:
        place = Path(split, category)
        frames = sorted(p.name for p in (root / "s4_data/visual_frames" / place / name).iterdir())
        masks = sorted(p.name for p in (root / "s4_data/gt_masks" / place / name).iterdir())
        assert frames == [f"{name}_{i}.png" for i in range(1, 6)]
        assert masks == frames[: 1 if split == "train" else 5]
        check_sound(root / "s4_data", place / name)
        for mask in masks:  # one source sounds all the time
            assert read_mask(root / "s4_data/gt_masks" / place / name / mask).any()


def test_layout_of_ms3(shapes):
    root = shapes / "Multi-sources"
    rows = list(csv.DictReader((root / "ms3_meta_data.csv").open()))
    assert len(rows) == sum(SPLITS.values())
    for row in rows:
        name, split = row["name"], row["split"]
        frames = sorted(p.name for p in (root / "ms3_data/visual_frames" / name).iterdir())
        masks = sorted(p.name for p in (root / "ms3_data/gt_masks" / split / name).iterdir())
        assert frames == [f"{name}.mp4_{i}.png" for i in range(1, 6)]
        assert masks == [f"{name}_{i}.png" for i in range(1, 6)]
        check_sound(root / "ms3_data", Path(split) / name)


def test_layout_of_avss(shapes, tmp_path):
    root = shapes / "AVSS"
    rows = list(csv.DictReader((root / "metadata.csv").open()))
    assert list(rows[0]) == ["vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"]
    assert [r["label"] for r in rows if r["split"] == "train"] == ["v1s", "v1s", "v1m", "v1m", "v2", "v2"]
    assert json.loads((root / "label2idx.json").read_text()) == {name: i for i, name in enumerate(CLASSES)}
    seen = set()
    for row in rows:
        folder, count = root / row["label"] / row["uid"], 10 if row["label"] == "v2" else 5
        labelled = 1 if (row["label"], row["split"]) == ("v1s", "train") else count
        assert sorted(p.name for p in folder.iterdir()) == ["audio.wav", "frames", "labels_rgb", "labels_semantic"]
        for kind, end, number in (("frames", "jpg", count), ("labels_rgb", "png", labelled)):
            assert sorted(p.name for p in (folder / kind).iterdir()) == [f"{t}.{end}" for t in range(number)]
        heard = {CLASSES.index(name) for name in row["a_obj"].split("+")}
        assert len(soundfile.read(folder / "audio.wav")[0]) == count * 16000
        for t in range(labelled):
            labels = read_class_indices(folder / f"labels_semantic/{t}.png")
            assert np.array_equal(read_class_colours(folder / f"labels_rgb/{t}.png"), labels)
            assert set(np.unique(labels)) <= heard | {0}
            assert row["label"] != "v1s" or set(np.unique(labels)) == heard | {0}
        seen |= heard
    assert len(seen) > 5
    make_sounding_shapes(tmp_path, "avss", AVSS_SPLITS, size=48, seed=3, workers=2)
    assert files(tmp_path / "AVSS") == files(root)
    for split in AVSS_SPLITS:
        data = AVSBenchAVSS(shapes, split)
        assert all(data.faults(i) == [] for i in range(len(data)))


def read_mask(path):
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (48, 48) and set(np.unique(mask)) <= {0, 255}
    return mask > 127


def check_sound(data, place):
    wave, rate = soundfile.read(data / "audio_wav" / f"{place}.wav")
    assert (rate, wave.shape) == (16000, (80000,))
    patches = pickle.loads((data / "audio_log_mel" / f"{place}.pkl").read_bytes())
    assert torch.equal(patches, log_mel_patches(wave, rate)) and patches.shape == (5, 1, 96, 64)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"subset": "avs"}, "subset: expected"),
        ({"size": 8}, "size: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"colours": "red"}, "colours: expected"),
        ({"splits": {"train": 0}}, "splits: expected"),
        ({"splits": {"dev": 3}}, "splits: expected"),
    ],
)
def test_malformed(tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        make_sounding_shapes(**{"out": tmp_path / "x", "subset": "ms3", "splits": SPLITS, "size": 48, **change})
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_kept_and_nothing_half_written_is_left(tmp_path, monkeypatch):
    (tmp_path / "Multi-sources").mkdir()
    with pytest.raises(UserError, match="exists already"):
        make_sounding_shapes(tmp_path, "ms3", SPLITS, size=48)
    monkeypatch.setattr("avsmamba.sounding_shapes.generate.mix_sounds", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_sounding_shapes(tmp_path / "new", "s4", SPLITS, size=48)
    assert list((tmp_path / "new").iterdir()) == []


def test_splits():
    assert divide(10) == {"train": 7, "val": 1, "test": 2} and sum(divide(3).values()) == 3
    assert parse_splits("train=5,test=2") == {"train": 5, "test": 2}
    for text in ("5", "train=x", "train=1,train=2", "train"):
        with pytest.raises(UserError, match="splits"):
            parse_splits(text)
    with pytest.raises(UserError, match="clips"):
        divide(2)


def test_the_tool(tmp_path):
    tool = [sys.executable, "tools/make_sounding_shapes.py", "--subset", "s4", "--out", str(tmp_path), "--workers", "1"]
    done = subprocess.run([*tool, "--clips", "3", "--size", "32"], capture_output=True, text=True)
    assert done.returncode == 0 and "3 clips in" in done.stdout
    again = subprocess.run([*tool, "--clips", "3", "--size", "32"], capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "exists already" in again.stderr
