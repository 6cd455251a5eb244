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
from avsmamba.sounding_shapes.pictures import OUTLINES, Scene, Shape, draw_clip, random_scene
from avsmamba.sounding_shapes.sounds import (
    CLASSES,
    KINDS,
    TIMBRES,
    ClipSpec,
    mix_sounds,
    plan_sounds,
    plan_voices,
    synthesize,
    voices_of,
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


def test_a_class_of_avss_needs_picture_and_sound():
    """By its sound alone it may be one of two, by its picture alone too, by both it is one."""
    assert len(CLASSES) == 13 and len(set(CLASSES)) == 13
    by_voice = {v: [k for k in KINDS if v in voices_of(k)] for v in KINDS}
    assert all(len(kinds) == 2 for kinds in by_voice.values())
    heard, silent = set(), set()
    for pair in range(60):
        for variant in (0, 1):
            clip = ClipSpec("avss", "train", pair, variant, 48, 0)
            scene = random_scene(clip.rng(), KINDS, clip.num_frames, apart=True)
            kinds = [s.kind for s in scene.shapes]
            voices, plan = plan_voices(clip, kinds), plan_sounds(clip, len(kinds))
            assert plan.shape == (len(kinds), clip.num_frames) and clip.num_frames == (10 if clip.part == "v2" else 5)
            assert len(set(kinds)) == len(kinds) in (2, 3)
            for i, (kind, voice) in enumerate(zip(kinds, voices, strict=True)):
                assert voice in voices_of(kind)
                assert [k for k in by_voice[voice] if k in kinds] == [kind]
                (heard if plan[i].any() else silent).add((kind, voice))
            assert clip.part != "v1s" or plan.sum(0).tolist() == [1] * 5
    assert len(heard) == len(silent) == 12


def read_mask(path):
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (48, 48) and set(np.unique(mask)) <= {0, 255}
    return mask > 127


def check_sound(data, place):
    wave, rate = soundfile.read(data / "audio_wav" / f"{place}.wav")
    assert (rate, wave.shape) == (16000, (80000,))
    patches = pickle.loads((data / "audio_log_mel" / f"{place}.pkl").read_bytes())
    assert torch.equal(patches, log_mel_patches(wave, rate)) and patches.shape == (5, 1, 96, 64)


def test_pairs_share_pictures_and_differ_in_sound():
    for pair in range(40):
        for subset in ("s4", "ms3"):
            clips = [ClipSpec(subset, "train", pair, v, 48, 0) for v in (0, 1)]
            scenes = [random_scene(c.rng(), KINDS, 5) for c in clips]
            kinds = [s.kind for s in scenes[0].shapes]
            assert len(set(kinds)) == len(kinds) in (2, 3)
            assert np.array_equal(draw_clip(scenes[0], 48)[0], draw_clip(scenes[1], 48)[0])
            plans = [plan_sounds(c, len(kinds)) for c in clips]
            heard = [set(np.flatnonzero(p.any(1))) for p in plans]
            assert heard[0] != heard[1] and all(0 < len(h) < len(kinds) for h in heard)
            if subset == "s4":
                assert all(p.sum(0).tolist() == [1] * 5 for p in plans)


def test_ms3_has_silent_seconds_and_several_sources():
    plans = [plan_sounds(ClipSpec("ms3", "train", i, v, 48, 0), 3) for i in range(100) for v in (0, 1)]
    sources = np.stack([p.sum(0) for p in plans])
    share = [(sources == n).mean() for n in range(3)]
    assert min(share) > 0.1 and (sources.max(1) == 0).sum() == 0
    assert (np.diff(np.stack([p.any(0) for p in plans]).astype(int), axis=1) != 0).mean() > 0.2


def test_masks_show_what_sounds():
    """A shape's mask is where its texture is seen; what lies on top takes its pixels."""
    path = np.full((5, 2), 0.5)
    textures = [np.full((64, 64, 3), c, np.uint8) for c in (200, 100)]
    shapes = tuple(
        Shape(k, r, path, np.zeros(5), t) for k, r, t in (("square", 0.4, textures[0]), ("circle", 0.2, textures[1]))
    )
    frames, visible = draw_clip(Scene(np.zeros((64, 64, 3), np.uint8), shapes), 64)
    close = [np.abs(frames[v].astype(int) - c).mean() < 10 for v, c in zip(visible, (200, 100), strict=True)]
    assert all(close)
    assert not (visible[0] & visible[1]).any()
    assert visible[1].sum(axis=(1, 2)) == pytest.approx(np.pi * (0.85 * 0.2 * 64) ** 2, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_of_similar_area(kind):
    shape = Shape(kind, 0.3, np.full((1, 2), 0.5), np.array([0.3]), np.zeros((64, 64, 3), np.uint8))
    area = draw_clip(Scene(np.zeros((8, 8, 3), np.uint8), (shape,)), 200)[1].sum() / (0.3 * 200) ** 2
    assert 1.6 < area < 2.5 and kind in OUTLINES


def test_hues_tell_a_kind_unless_told_not_to():
    def hues(colours):
        seen = {k: [] for k in KINDS}
        for i in range(60):
            for shape in random_scene(np.random.default_rng(i), KINDS, 1, colours).shapes:
                hsv = cv2.cvtColor(shape.texture, cv2.COLOR_RGB2HSV)
                seen[shape.kind].append(np.exp(2j * np.pi * np.median(hsv[..., 0]) / 180))
        return np.array([abs(np.mean(seen[k])) for k in KINDS])  # 1: all alike, near 0: all around the circle

    assert hues("kind").min() > 0.9 and hues("any").max() < 0.7


def test_a_sound_is_heard_only_while_its_shape_sounds():
    clip = ClipSpec("ms3", "train", 0, 0, 48, 1)
    on = np.array([[True, False, True, True, False], [False] * 5])
    wave = mix_sounds(clip.rng(3, 0), ["circle", "star"], on).astype(float).reshape(5, 16000)
    loudness = np.sqrt((wave[:, 2000:-2000] ** 2).mean(1))
    assert loudness[on[0]].min() > 20 * loudness[~on[0]].max()


def test_timbres_differ_and_are_equally_loud():
    sounds = {k: synthesize(t, np.random.default_rng(0)) for k, t in TIMBRES.items()}
    assert all(0.3 < np.sqrt((s**2).mean()) < 0.9 and np.abs(s).max() < 3.6 for s in sounds.values())
    spectra = np.stack([log_mel_patches(s, 16000).mean((0, 1, 2)).numpy() for s in sounds.values()])
    assert min(np.corrcoef(spectra)[i, j] < 0.9 for i in range(6) for j in range(i))


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
