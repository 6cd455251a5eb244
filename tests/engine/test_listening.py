"""ListeningCheck: it warns of a model that does not use the sound, and changes nothing of the training."""

import json
import random
import shutil

import numpy as np
import pytest
import torch

from avsmamba.engine.listening import kept_random_state
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from avsmamba.utils import UserError
from tests import ROOT
from tests.engine.standins import config
from tests.engine.test_distributed import torchrun
from tests.engine.test_resume import assert_equal, train
from tests.engine.test_runner import scalars

WARNING = "WARNING: The score hardly depends on the sound, iteration "


def check(**options):
    # The stand-in's clips without sound are zeros, so its score differs.
    return {"custom_hooks": [{"type": "ListeningCheck", "sound": "silence", "margin": 0.0, **options}]}


def lines(work_dir):
    (log,) = work_dir.glob("*/*.log")
    return [line for line in log.read_text().splitlines() if "depends on the sound" in line]


@pytest.mark.parametrize("loop", ["epoch", "iter"])
def test_it_warns_within_the_margin_only(tmp_path, loop):
    train(config(tmp_path, loop, **check(margin=1.0, num_clips=3)), tmp_path / "w")
    assert len(lines(tmp_path / "w")) == 4 and all(WARNING in line for line in lines(tmp_path / "w"))
    real, other = (scalars(tmp_path / "w", f"listening/{sound}") for sound in ("real", "silence"))
    assert len(real) == len(other) == 4 and real != other
    for value, silent, line in zip(real, other, lines(tmp_path / "w"), strict=True):
        assert f"M_J {value:.4f} with the clips' own sound, {silent:.4f} with silence (margin 1.0)" in line
    train(config(tmp_path, loop, **check(margin=0.0)), tmp_path / "all")
    scores, real = (scalars(tmp_path / "all", name) for name in ("M_J", "listening/real"))
    assert real == pytest.approx(scores), "all clips with their own sound: the validation itself"
    silent = scalars(tmp_path / "all", "listening/silence")
    warned = [WARNING in line for line in lines(tmp_path / "all")]
    assert warned == [a <= b for a, b in zip(real, silent, strict=True)]


def test_every_second_validation_is_checked_and_no_value_is_repeated(tmp_path):
    train(config(tmp_path, **check(interval=2)), tmp_path / "w")
    (file,) = tmp_path.glob("w/*/vis_data/scalars.json")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in rows if "listening/real" in row] == [2, 4]


@pytest.mark.parametrize("loop", ["epoch", "iter"])
def test_a_training_is_the_same_with_it_and_resumes_exactly(tmp_path, loop):
    kept = "default_hooks.checkpoint.max_keep_ckpts=-1"
    without = train(config(tmp_path, loop), tmp_path / "without", kept)
    path = config(tmp_path, loop, **check(num_clips=3))
    whole = train(path, tmp_path / "with", kept)
    assert_equal(without, whole)
    middle = {"epoch": "epoch_2.pth", "iter": "iter_8.pth"}[loop]
    (tmp_path / "broken").mkdir()
    shutil.copy(tmp_path / "with" / middle, tmp_path / "broken" / middle)
    assert_equal(whole, train(path, tmp_path / "broken", kept, resume="auto"))
    assert len(lines(tmp_path / "broken")) == 2


def test_the_random_state_is_kept():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with kept_random_state():
        draw()
    assert draw() == expected


def test_two_processes_get_the_score_of_one(tmp_path):
    path = config(tmp_path, "iter", **check(num_clips=5))
    options = ["train_cfg.max_iters=4", "model.norm=false", "model.head.dropout=0", "train_dataloader.dataset.noise=0"]
    options += ["train_dataloader.sampler.type=DefaultSampler"]
    out = torchrun("train", path, "--work-dir", tmp_path / "two", "--cfg-options", *options)
    assert out.count("depends on the sound") == 1
    train(path, tmp_path / "one", *options, "train_dataloader.batch_size=6")
    for name in ("listening/real", "listening/silence"):
        assert scalars(tmp_path / "two", name) == pytest.approx(scalars(tmp_path / "one", name), abs=1e-6)


@pytest.mark.parametrize("subset", ["s4", "ms3", "avss"])
def test_every_subset_with_the_sound_of_another_clip(tmp_path, subset):
    make_sounding_shapes(tmp_path, subset, {"train": 2, "val": 3, "test": 2}, size=40, seed=1)
    small = [{"type": "Resize", "size": 32}]
    options = [f"{name}_dataloader.dataset.pipeline={json.dumps(small)}" for name in ("train", "val")]
    options += [f"{name}_dataloader.num_workers=0" for name in ("train", "val")]
    options += ["train_cfg.max_iters=1", "train_cfg.val_interval=1", "custom_hooks=[{type: ListeningCheck}]"]
    path = ROOT / f"configs/avs_mamba/avs_mamba_tiny_{subset}_shapes.yaml"
    train(path, tmp_path / "w", *options, data_root=str(tmp_path))
    (line,) = lines(tmp_path / "w")
    assert "with another clip's" in line
    assert scalars(tmp_path / "w", "listening/real") == pytest.approx(scalars(tmp_path / "w", "M_J"))


@pytest.mark.parametrize(
    ("options", "top", "words"),
    [
        ({"sound": "real"}, {}, "custom_hooks.0.sound: expected one of"),
        ({"score": "nope"}, {}, "ListeningCheck: score: no metric 'nope'; there are"),
        ({}, {"val_dataloader": None, "val_cfg": None, "val_evaluator": None}, "val_dataloader is not set"),
    ],
)
def test_faults_of_the_config(tmp_path, options, top, words):
    with pytest.raises(UserError, match=words):
        train(config(tmp_path, **check(**options), **top), tmp_path / "w")


def test_a_data_set_without_sounds(tmp_path):
    def loader():
        dataset = {"type": "StandInClips"}
        return {"batch_size": 1, "num_workers": 0, "sampler": {"type": "DefaultSampler"}, "dataset": dataset}

    with pytest.raises(UserError, match=r"ListeningCheck: val_dataloader.dataset: takes no 'audio'"):
        train(config(tmp_path, **check(), val_dataloader=loader()), tmp_path / "w")


def test_a_single_clip_turns_it_off(tmp_path):
    test = {"type": "StandInDataset", "data_root": "nowhere", "split": "test", "size": 1}
    loader = {"batch_size": 1, "num_workers": 0, "sampler": {"type": "DefaultSampler"}, "dataset": test}
    train(config(tmp_path, **check(sound="shuffle"), val_dataloader=loader), tmp_path / "w")
    (log,) = tmp_path.glob("w/*/*.log")
    assert log.read_text().count("WARNING: ListeningCheck is off: a single clip") == 1
    assert not lines(tmp_path / "w") and not scalars(tmp_path / "w", "listening/real")
