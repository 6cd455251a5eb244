"""Half the batch with `accumulative_counts: 2`: the same gradients, and the same learning rate at the same sample."""

import json

import torch

from tests.engine.standins import config
from tests.engine.test_resume import train

OPTIONS = [
    "model.head.dropout=0",
    "model.norm=false",
    "train_dataloader.dataset.noise=0",
    "default_hooks.logger.interval=1",
    "optim_wrapper.clip_grad={max_norm: 1.0}",  # of the accumulated gradient
]
HALVED = ["optim_wrapper.accumulative_counts=2", "train_dataloader.batch_size=3"]


def run(path, work_dir, *options):
    """Return the last checkpoint, and the learning rate of each iteration."""
    last = train(path, work_dir, *OPTIONS, *options)
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [line for line in map(json.loads, log.read_text().splitlines()) if "lr" in line]
    return last, [line["lr"] for line in lines]


def test_by_epoch_nothing_else_changes(tmp_path):
    path = config(tmp_path)
    whole, rates = run(path, tmp_path / "whole", "train_dataloader.batch_size=6")
    halves, twice = run(path, tmp_path / "halves", *HALVED)
    assert twice == [rate for rate in rates for _ in range(2)] and len(set(rates)) == 4
    torch.testing.assert_close(halves["state_dict"], whole["state_dict"])
    torch.testing.assert_close(halves["optimizer"]["state"], whole["optimizer"]["state"])  # with the number of steps


def test_by_iteration_all_counts_double(tmp_path):
    """The schedule counts iterations, not steps: with twice max_iters, the rate goes the same way over the samples."""
    path = config(tmp_path, "iter", param_scheduler=[{"type": "PolyLR", "power": 1.0, "by_epoch": False}])
    counts = ["train_cfg.max_iters={0}", "train_cfg.val_interval={0}"]
    whole, rates = run(path, tmp_path / "whole", "train_dataloader.batch_size=6", *(c.format(8) for c in counts))
    halves, twice = run(path, tmp_path / "halves", *HALVED, *(c.format(16) for c in counts))
    assert len(rates) == 8 and len(twice) == 16
    torch.testing.assert_close(torch.tensor(rates), 0.01 * torch.linspace(1, 0, 8))
    torch.testing.assert_close(torch.tensor(twice), 0.01 * torch.linspace(1, 0, 16))
    # A step is at the second of its iterations, up to half a step further on the schedule.
    gaps = torch.tensor(rates) - torch.tensor(twice[1::2])
    assert gaps.min() > -1e-7 and gaps.max() < 0.5 * rates[0] / 7
    number = next(iter(whole["optimizer"]["state"]))
    assert whole["optimizer"]["state"][number]["step"] == halves["optimizer"]["state"][number]["step"] == 8


def test_the_gradients_are_the_same(tmp_path):
    """With a constant rate and plain SGD the weights tell the gradients."""
    optimizer = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.05}}
    path = config(tmp_path, "iter", optim_wrapper=optimizer, param_scheduler=[])
    whole, _ = run(path, tmp_path / "whole", "train_dataloader.batch_size=6", "train_cfg.max_iters=4")
    halves, _ = run(path, tmp_path / "halves", *HALVED, "train_cfg.max_iters=8")
    torch.testing.assert_close(halves["state_dict"], whole["state_dict"])
    other, _ = run(path, tmp_path / "other", "train_dataloader.batch_size=3", "train_cfg.max_iters=4")
    assert not torch.allclose(other["state_dict"]["head.layers.0.weight"], whole["state_dict"]["head.layers.0.weight"])
