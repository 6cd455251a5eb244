"""The sample clip: its pictures and sound decoded again are those of its masks; and the score of masks in folders."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avsmamba.cli import main
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.model_zoo.bundled import find_model, shipped_models
from avsmamba.sounding_shapes import sample
from avsmamba.sounding_shapes.pictures import Scene, draw_frames
from avsmamba.sounding_shapes.sample import make_sample, plan_sample, score_masks
from avsmamba.utils import UserError
from avsmamba.video import open_video


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample"), seed=3)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sample, "SIZE", 64)


def pictures_at(scene, times):
    """`(n, 320, 320, 3)` and `(n, S, 320, 320)` bool, as they were drawn."""
    index = [round(25 * time) for time in times]
    shapes = tuple(replace(s, path=s.path[index], angles=s.angles[index]) for s in scene.shapes)
    frames, visible = zip(*draw_frames(Scene(scene.ground, shapes), 320), strict=True)
    return np.stack(frames).astype(float), np.stack(visible)


def masks_of(folder, size=320):
    masks = [cv2.imread(str(folder / f"sample_{k + 1}.png"), cv2.IMREAD_UNCHANGED) for k in range(10)]
    assert all(m.shape == (size, size) and m.dtype == np.uint8 and set(np.unique(m)) <= {0, 255} for m in masks)
    return np.stack(masks) > 0


def test_files_and_format(made):
    assert {p.name for p in made.parent.iterdir()} == {"sample.mp4", "sample_masks"}
    assert {p.name for p in (made.parent / "sample_masks").iterdir()} == {f"sample_{k}.png" for k in range(1, 11)}
    with open_video(made) as video:
        info, times = video.info, [time for time, _ in video.frames()]
    assert (info.width, info.height, info.frame_rate, info.channels) == (320, 320, 25, 1)
    assert info.duration == pytest.approx(10, abs=0.05) and info.sample_rate == 16000
    assert np.allclose(times, np.arange(250) / 25, atol=1e-4)


def test_the_picture_at_k_seconds_is_that_of_mask_k(made):
    scene, activity, _ = plan_sample(3)
    with open_video(made) as video:
        shown = [picture.astype(float) for _, picture in video.sampled(1.0)]
    assert len(shown) == 10
    drawn, visible = pictures_at(scene, range(10))
    for k in range(10):
        assert np.abs(shown[k] - drawn[k]).mean() < 6
    early = pictures_at(scene, np.arange(1, 10) - 0.12)[0]
    late = pictures_at(scene, np.arange(1, 10) + 0.12)[0]
    for k in range(1, 10):
        there = np.abs(shown[k] - drawn[k]).mean()
        assert there < 0.8 * min(np.abs(shown[k] - other[k - 1]).mean() for other in (early, late))
    expected = (visible & activity.T[:, :, None, None]).any(1)
    assert np.array_equal(masks_of(made.parent / "sample_masks"), expected)
    assert not expected[~activity.any(0)].any() and expected.any((1, 2)).sum() == activity.any(0).sum()


def test_the_sound_of_a_second_is_of_what_sounds_in_it(made):
    scene, activity, waveform = plan_sample(3)
    assert len(scene.shapes) == 3 and not activity[2].any()
    wave = waveform / 32768.0
    with open_video(made) as video:
        heard = np.concatenate([video.sound(k, k + 1.0) for k in range(10)])
    assert heard.shape == (160000,)
    spectrum = np.fft.rfft(heard) * np.fft.rfft(wave).conj()
    assert abs((np.fft.irfft(spectrum).argmax() + 80000) % 160000 - 80000) <= 16  # 1 ms
    assert np.corrcoef(heard, wave)[0, 1] > 0.95
    for k in range(10):
        mine, right = (log_mel_patches(w[16000 * k :][:15600], 16000)[0] for w in (heard, wave))
        assert (mine - right).abs().mean() < 0.5
    loud = np.sqrt((heard.reshape(10, 16000)[:, 1600:-1600] ** 2).mean(1))
    assert loud[activity.any(0)].min() > 5 * loud[~activity.any(0)].max()


def test_the_seed_decides_and_an_earlier_sample_is_replaced(small, tmp_path):
    first, again = (make_sample(tmp_path / name, 1) for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()
    masks = masks_of(tmp_path / "a" / "sample_masks", 64)
    assert np.array_equal(masks, masks_of(tmp_path / "b" / "sample_masks", 64))
    make_sample(tmp_path / "b", 2)
    assert first.read_bytes() != again.read_bytes()
    assert not np.array_equal(masks, masks_of(tmp_path / "b" / "sample_masks", 64))
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"sample.mp4", "sample_masks"}


@pytest.mark.parametrize("seed", range(5))
def test_every_plan_has_silence_one_and_two_sources(seed):
    scene, activity, waveform = plan_sample(seed)
    kinds = [shape.kind for shape in scene.shapes]
    assert len(set(kinds)) == len(kinds) == 3 and {0, 1, 2} == set(activity.sum(0))
    assert activity.sum(1)[:2].min() >= 3 and waveform.shape == (160000,)


def test_malformed_and_nothing_is_left(small, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="seed: expected"):
        make_sample(tmp_path, -1)
    (tmp_path / "sample_masks").mkdir()
    (tmp_path / "sample_masks" / "mine.png").touch()
    with pytest.raises(UserError, match=r"sample_masks: holds more than an earlier sample"):
        make_sample(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be written"):
        make_sample(tmp_path / "file")
    monkeypatch.setattr(sample, "join", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_sample(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_command(small, tmp_path, capsys):
    assert main(["sample", "--out", str(tmp_path), "--seed", "4"]) == 0
    printed = capsys.readouterr().out
    assert f"avsmamba predict {tmp_path / 'sample.mp4'} --out" in printed and (tmp_path / "sample.mp4").is_file()


def write(folder, masks, name="clip"):
    folder.mkdir(parents=True, exist_ok=True)
    for k, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{name}_{k + 1}.png"), mask.astype(np.uint8) * 255)
    return folder


def test_scores_of_folders(tmp_path):
    truth = np.zeros((12, 6, 8), bool)
    truth[:10, 1:3, 2:6] = True  # 12 masks: numbers are compared, not names
    folder = write(tmp_path / "truth", truth)
    guess = truth.copy()
    guess[0] = False  # IoU 0
    guess[1, 3, 2:6] = True  # 8 of 12
    guess[10, 0, :6] = True  # backgrounds: 42 of 48
    found = score_masks(write(tmp_path / "guess", [*guess, guess[0]], "other_name"), folder)
    assert found["frames"] == 12 and found["M_J"] == pytest.approx((0 + 8 / 12 + 8 + 42 / 48 + 1) / 12, abs=1e-6)
    assert score_masks(folder, folder)["M_J"] == pytest.approx(1, abs=1e-6)
    assert score_masks(folder, folder)["M_F"] == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match=r"few: has no mask number 3"):
        score_masks(write(tmp_path / "few", guess[:2]), folder)
    with pytest.raises(UserError, match=r"clip_1\.png: expected 8 x 6 pixels as .*, got 6 x 8"):
        score_masks(write(tmp_path / "turned", guess.transpose(0, 2, 1)), folder)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="expected masks"):
            score_masks(folder, path)
    write(tmp_path / "mixed", truth)
    cv2.imwrite(str(tmp_path / "mixed" / "clip_2.png"), np.zeros((3, 3), np.uint8))
    with pytest.raises(UserError, match="expected masks of one size"):
        score_masks(tmp_path / "mixed", tmp_path / "mixed")


def known_models():
    """Those that are shipped, and the demo's where `make demo` has run."""
    names = [model.name for model in shipped_models()]
    try:
        find_model("demo")
    except UserError:
        return names
    return [*names, "demo"]


@pytest.mark.parametrize("name", known_models())
def test_a_model_of_the_package_finds_what_sounds(tmp_path, name):
    load_model = pytest.importorskip("avsmamba.inference.load").load_model
    torch.manual_seed(0)
    make_sample(tmp_path)
    prediction = load_model(name).predict(tmp_path / "sample.mp4")
    prediction.save(tmp_path / "out", formats=["masks"])
    assert score_masks(tmp_path / "out" / "masks", tmp_path / "sample_masks")["M_J"] >= 0.7
    assert Path(tmp_path / "out" / "masks" / "sample_10.png").is_file()
