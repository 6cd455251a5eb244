"""SoundingShapes at difficulty 'hard'; and the plain clips, whose bytes must not change."""

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from avsmamba.sounding_shapes.hard import RADII, ROOM, hard_mix, hard_scene
from avsmamba.sounding_shapes.pictures import CLUTTER_OUTLINES, OUTLINES, draw_clip, random_scene
from avsmamba.sounding_shapes.sounds import KINDS, TIMBRES, ClipSpec, plan_sounds, synthesize
from avsmamba.utils import UserError

# Of what the generator wrote before it knew difficulties (commit 6ee4cc1).
PLAIN = {
    ("s4", "kind"): "8d3156ffaab28ebbd7e1dd6855072c5503317c4ee0b542e51282a623a1ee3d80",
    ("ms3", "kind"): "300fb30e9fd434cf9d436abd1780c4dcfaf8a36d9ee9b471016065389d58b784",
    ("ms3", "any"): "8f1e23a6574fae41629f0f3d6690aaca36a93709a6d5c0d20704b36355bf862a",
    ("avss", "kind"): "c24067f8de385a9d8d03d72be0e5bdc0ab5bcbe0e7562ee08af02b2006d5c8d3",
}


def content(root):
    """SHA-256 of names, tables, sounds and pixels. How PNG packs pixels is libpng's affair; JPEG's pixels are too."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode())
        if path.suffix == ".png":
            digest.update(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes())
        elif path.suffix in (".csv", ".wav", ".json"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("subset, colours", PLAIN)
def test_plain_clips_stay_what_they_were(tmp_path, subset, colours):
    make_sounding_shapes(tmp_path, subset, {"train": 3, "val": 1, "test": 2}, 32, seed=5, colours=colours)
    assert content(tmp_path) == PLAIN[subset, colours]


@pytest.mark.parametrize("subset", ["s4", "ms3", "avss"])
def test_hard_clips_are_of_the_same_layout_and_repeat(tmp_path, subset):
    splits = {"train": 3, "test": 3}
    for folder in ("a", "b"):
        make_sounding_shapes(tmp_path / folder, subset, splits, 32, seed=5, difficulty="hard")
    make_sounding_shapes(tmp_path / "plain", subset, splits, 32, seed=5)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "plain")

    def kinds(folder):  # names are of what sounds, which differs
        return {(len(p.parts), p.suffix) for p in (tmp_path / folder).rglob("*")}

    assert kinds("a") == kinds("plain")


def test_pairs_share_pictures_and_differ_in_sound():
    for pair in range(20):
        first, second = (ClipSpec("ms3", "train", pair, v, 32, 0, difficulty="hard") for v in (0, 1))
        scenes = [hard_scene(c.rng(), KINDS, 5) for c in (first, second)]
        assert np.array_equal(draw_clip(scenes[0], 32)[0], draw_clip(scenes[1], 32)[0])
        plans = [plan_sounds(c, len(scenes[0].shapes)).any(1) for c in (first, second)]
        assert not np.array_equal(*plans) and all(0 < p.sum() < len(p) for p in plans)


def test_scenes_are_harder():
    """More shapes, a wider range of sizes, faster, dimmer, cluttered; what sounds is still seen."""
    hard = [hard_scene(np.random.default_rng(i), KINDS, 5) for i in range(80)]
    plain = [random_scene(np.random.default_rng(i), KINDS, 5) for i in range(80)]

    def spread(scenes, value):
        found = np.array([value(shape) for scene in scenes for shape in scene.shapes])
        return found.min(), found.max()

    def step(shape):
        return np.linalg.norm(np.diff(shape.path, axis=0), axis=1).max()

    def turn(shape):
        return abs(shape.angles[1] - shape.angles[0])

    radii = spread(hard, lambda s: s.radius)
    assert radii[0] < 0.12 < 0.24 < radii[1] <= RADII[1] and {len(s.shapes) for s in hard} == {2, 3, 4}
    assert all(sum(shape.radius for shape in s.shapes) <= ROOM + 1e-9 for s in hard)
    assert spread(hard, step)[1] > 2 * spread(plain, step)[1] and spread(hard, turn)[1] > 2 * spread(plain, turn)[1]
    assert spread(hard, lambda s: s.texture.mean())[0] < 0.7 * spread(plain, lambda s: s.texture.mean())[0]
    assert {len(s.clutter) for s in hard} == {0, 1, 2, 3, 4} and not any(s.clutter for s in plain)
    assert all(shape.kind not in OUTLINES for s in hard for shape in s.clutter) and len(CLUTTER_OUTLINES) >= 4
    shares = []
    for scene in hard[:30]:
        visible = draw_clip(scene, 48)[1].sum((2, 3))
        alone = [draw_clip(type(scene)(scene.ground, (shape,)), 48)[1].sum((2, 3))[0] for shape in scene.shapes]
        shares.append((visible / np.array(alone)).ravel())
    found = np.concatenate(shares)
    assert 0.05 < (found < 0.95).mean() < 0.5 and (found < 0.1).mean() < 0.02


def test_three_quarters_of_the_shapes_have_their_kind_s_hue():
    own = []
    for i in range(150):
        for shape in hard_scene(np.random.default_rng(i), KINDS, 1).shapes:
            hue = 2 * np.median(cv2.cvtColor(shape.texture, cv2.COLOR_RGB2HSV)[..., 0])
            away = abs((hue - 60 * KINDS.index(shape.kind) + 180) % 360 - 180)
            own.append(away <= 30)
    assert 0.7 < np.mean(own) < 0.9


def test_sounds_vary_more_and_come_from_off_screen_too():
    peaks, off, loud = [], 0, []
    for i in range(40):
        wave = synthesize(TIMBRES["circle"], np.random.default_rng(i), 1, vary=True)
        peaks.append(float(np.abs(np.fft.rfft(wave)).argmax()))
        clip = ClipSpec("ms3", "train", i, 0, 32, 0, difficulty="hard")
        on = np.array([[True, False, False, True, False], [False] * 5])
        wave, off_screen = hard_mix(clip, ["circle", "star"], ["circle", "star"], on)
        assert wave.shape == (80000,) and wave.dtype == np.int16 and not {"circle", "star"} & set(off_screen)
        off += len(off_screen)
        rms = np.sqrt((wave.reshape(5, 16000)[:, 6000:-2000].astype(float) ** 2).mean(1))
        loud.append(rms[0])
        if not off_screen:
            assert min(rms[0], rms[3]) > 1.5 * max(rms[2], rms[4])
        assert log_mel_patches(wave / 32768, 16000).isfinite().all()
    assert min(peaks) < 410 and max(peaks) > 470  # Hz: plain ones lie between 427 and 453
    assert 3 <= off <= 15 and max(loud) > 4 * min(loud)
    s4 = ClipSpec("s4", "train", 0, 0, 32, 0, difficulty="hard")
    assert hard_mix(s4, ["circle"], ["circle"], np.ones((1, 5), bool))[1] == []


def test_what_sounds_off_screen_is_in_the_table_and_in_no_mask(tmp_path):
    make_sounding_shapes(tmp_path, "ms3", {"train": 24}, 32, seed=1, difficulty="hard")
    root = tmp_path / "Multi-sources"
    rows = list(csv.DictReader((root / "ms3_meta_data.csv").open()))
    off = [set(r["category"].split("+")) - set(r["visible"].split("+")) for r in rows]
    assert 1 <= sum(map(bool, off)) < 12 and all(len(kinds) <= 1 for kinds in off)
    for row in rows:
        assert Path(root, "ms3_data/visual_frames", row["name"], f"{row['name']}.mp4_5.png").is_file()


def test_an_unknown_difficulty(tmp_path):
    with pytest.raises(UserError, match="difficulty: expected one of plain, hard, got 'harder'"):
        make_sounding_shapes(tmp_path, "ms3", {"train": 2}, 32, difficulty="harder")
