"""A resumed run ends with the same weights as an uninterrupted one, bit for bit, for all loops and workers."""

import shutil

import pytest
import torch

from avsmamba.config.load import load_config
from avsmamba.engine.runner import AVSRunner
from avsmamba.engine.train import train as run_training
from avsmamba.engine.work_dir import find_latest
from avsmamba.utils import UserError
from tests.engine.standins import config


def train(path, work_dir, *options, **kwargs):
    run_training(path, work_dir=str(work_dir), options=options, **kwargs)
    return load(find_latest(work_dir))


def load(path):
    return torch.load(path, weights_only=True)


def assert_equal(a, b):
    """Assert that state dicts and optimizer states are equal to the bit."""
    for key in a["state_dict"]:
        assert torch.equal(a["state_dict"][key], b["state_dict"][key]), key
    for key, state in a["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["optimizer"]["state"][key][name])), name
    assert a["param_schedulers"] == b["param_schedulers"]
    assert (a["meta"]["epoch"], a["meta"]["iter"]) == (b["meta"]["epoch"], b["meta"]["iter"])


CASES = [
    ("epoch", 0, False, ()),
    ("epoch", 2, False, ()),
    ("epoch", 2, True, ()),
    ("iter", 0, False, ()),
    ("iter", 2, True, ()),
    ("epoch", 0, False, ("optim_wrapper.type=AutocastOptimWrapper",)),
    # three batches per optimizer step, four per epoch: the checkpoint is between two steps
    ("epoch", 0, False, ("optim_wrapper.accumulative_counts=3", "optim_wrapper.clip_grad={max_norm: 1.0}")),
    ("iter", 0, False, ("optim_wrapper.accumulative_counts=3", "train_dataloader.sampler.type=DefaultSampler")),
]


@pytest.mark.parametrize("loop, workers, persistent, options", CASES)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_resumed_equals_unbroken(tmp_path, loop, workers, persistent, options):
    path = config(tmp_path, loop, workers, persistent)
    options = ("default_hooks.checkpoint.max_keep_ckpts=-1", *options)
    whole = train(path, tmp_path / "whole", *options)
    middle = {"epoch": "epoch_2.pth", "iter": "iter_8.pth"}[loop]
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(tmp_path / "whole" / middle, broken / middle)
    assert_differs(load(broken / middle), whole)
    resumed = train(path, broken, *options, resume="auto")
    assert_equal(whole, resumed)


def assert_differs(a, b):
    assert any(not torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in a["state_dict"])


def test_the_number_of_workers_does_not_change_the_weights(tmp_path):
    runs = [
        train(config(tmp_path, "epoch", n, p), tmp_path / f"{n}{p}") for n, p in ((0, False), (1, False), (2, True))
    ]
    assert_equal(runs[0], runs[1])
    assert_equal(runs[0], runs[2])


def test_another_seed_gives_other_weights(tmp_path):
    path = config(tmp_path)
    assert_differs(train(path, tmp_path / "a"), train(path, tmp_path / "b", "randomness.seed=1"))


@pytest.mark.parametrize("workers, persistent", [(0, False), (2, False), (2, True)])
def test_augmentation_differs_from_epoch_to_epoch(tmp_path, workers, persistent):
    """mmengine's workers draw the same numbers in every epoch unless they persist."""
    cfg = load_config(config(tmp_path, "epoch", workers, persistent), {"train_dataloader.sampler.shuffle": False})
    cfg.work_dir = str(tmp_path / "w")
    runner = AVSRunner.from_cfg(cfg)
    loader = runner.build_train_loop(runner._train_loop).dataloader
    batches = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        batches.append(torch.stack(next(iter(loader))["x"]))
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[1], batches[2])
    loader.sampler.set_epoch(0)
    assert torch.equal(batches[0], torch.stack(next(iter(loader))["x"]))


def test_a_moved_work_dir_resumes_from_its_own_files(tmp_path):
    path = config(tmp_path)
    train(path, tmp_path / "a", "train_cfg.max_epochs=2")
    best = sorted((tmp_path / "a").glob("best_*"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "epoch_2.pth").write_bytes(b"not this one")
    train(path, tmp_path / "b", resume="auto")
    assert (tmp_path / "b" / "epoch_4.pth").is_file()
    assert sorted((tmp_path / "a").glob("best_*")) == best
    assert len(list((tmp_path / "b").glob("best_*"))) == 1


def test_nothing_to_resume_is_said_and_starts_anew(tmp_path, capfd):
    path = config(tmp_path)
    fresh = train(path, tmp_path / "a", resume="auto")
    assert "Nothing to resume" in capfd.readouterr().out
    assert_equal(fresh, train(path, tmp_path / "b"))


def test_resuming_a_finished_run_changes_nothing(tmp_path, capfd):
    for loop in ("epoch", "iter"):
        path = config(tmp_path, loop)
        before = train(path, tmp_path / loop)
        assert_equal(before, train(path, tmp_path / loop, resume="auto"))
        assert "nothing left to train" in capfd.readouterr().out


def test_resume_prefers_the_work_dir_to_load_from(tmp_path):
    first = tmp_path / "s4"
    train(config(tmp_path), first)
    path = config(tmp_path, load_from=str(first / "epoch_4.pth"))
    tuned = train(path, tmp_path / "ms3", "train_cfg.max_epochs=2", resume="auto")
    assert tuned["meta"]["iter"] == 8  # its own two epochs, not a continuation of the four
    again = train(path, tmp_path / "ms3", "train_cfg.max_epochs=3", resume="auto")
    assert again["meta"]["iter"] == 12


def test_the_best_checkpoint_cannot_be_resumed(tmp_path):
    path = config(tmp_path)
    train(path, tmp_path / "a")
    best = next((tmp_path / "a").glob("best_*"))
    with pytest.raises(UserError, match=r"no optimizer state .*load_from"):
        train(path, tmp_path / "b", resume=str(best))
    with pytest.raises(UserError, match="--resume: no such checkpoint"):
        train(path, tmp_path / "b", resume=str(tmp_path / "none.pth"))


def test_a_checkpoint_from_within_an_epoch_is_told(tmp_path, capfd):
    path = config(tmp_path)
    options = ["default_hooks.checkpoint={by_epoch: false, interval: 2, max_keep_ckpts: -1, save_best: null}"]
    train(path, tmp_path / "a", *options)
    train(path, tmp_path / "b", resume=str(tmp_path / "a" / "iter_6.pth"))
    assert "not the end of epoch" in capfd.readouterr().out
