"""A part of the model that does not train at first: its weights, the optimizer's state, resume, several processes."""

import shutil
from typing import ClassVar

import pytest
import torch

from avsmamba.config.load import load_config
from avsmamba.engine import FreezeBackbone
from avsmamba.engine.runner import AVSRunner
from avsmamba.engine.train import train as run_training
from avsmamba.registry import HOOKS
from avsmamba.utils import UserError
from tests.engine.standins import config
from tests.engine.test_distributed import torchrun
from tests.engine.test_resume import assert_equal, load, train

PART = "head.layers.0"  # the first linear layer of the small model's head
KEYS = [f"{PART}.weight", f"{PART}.bias"]
KEEP = "default_hooks.checkpoint.max_keep_ckpts=-1"


def frozen(loop="epoch", count=2, part=PART, **more):
    key = "epochs" if loop == "epoch" else "iters"
    return {"custom_hooks": [{"type": "FreezeBackbone", key: count, "part": part}], **more}


def part_of(checkpoint):
    return torch.cat([checkpoint["state_dict"][k].flatten() for k in KEYS])


def states(checkpoint):
    """Return the optimizer's number of steps of each parameter that it has changed, in the order of the model."""
    return [float(state["step"]) for _, state in sorted(checkpoint["optimizer"]["state"].items())]


@HOOKS.register_module()
class Watch(FreezeBackbone):
    """Notes each iteration whether the part trains and is in training mode."""

    seen: ClassVar[list[tuple[int, bool, bool]]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        part = runner.model.get_submodule(self.part)
        self.seen.append((runner.iter, part.weight.requires_grad, part.training))


@pytest.mark.parametrize("loop, count, last", [("epoch", 2, 8), ("iter", 6, 6)])
def test_it_trains_after_the_epochs_and_not_before(tmp_path, loop, count, last, capfd):
    options = frozen(loop, count)
    options["custom_hooks"][0]["type"] = "Watch"
    Watch.seen = []
    whole = train(config(tmp_path, loop, **options), tmp_path / "a", KEEP)
    assert Watch.seen == [(i, i >= last, True) for i in range(16)]
    log = capfd.readouterr().out
    until, where = {"epoch": ("2 epochs", "epoch 3"), "iter": ("6 iterations", "iteration 7")}[loop]
    assert log.count(f"{PART}: 0.00 M parameters do not train for the first {until}") == 1
    assert log.count(f"{PART}: 0.00 M parameters train from {where} on") == 1
    steps = states(whole)
    assert steps.count(16 - last) == 2 and steps.count(16) == len(steps) - 2  # AdamW counts for each parameter


def test_weight_decay_and_moments_leave_it_alone(tmp_path):
    options = ["optim_wrapper.optimizer.weight_decay=0.5", KEEP]
    train(config(tmp_path, **frozen()), tmp_path / "a", *options)
    one, two, three = (load(tmp_path / "a" / f"epoch_{i}.pth") for i in (1, 2, 3))
    assert torch.equal(part_of(one), part_of(two)) and not torch.equal(part_of(two), part_of(three))
    assert len(states(one)) == len(states(two)) == len(states(three)) - 2
    unlike = train(config(tmp_path), tmp_path / "b", *options)
    assert len(states(unlike)) == len(states(three))


def test_a_part_frozen_for_no_epoch_is_as_without_the_hook(tmp_path):
    plain = train(config(tmp_path), tmp_path / "a")
    assert_equal(plain, train(config(tmp_path, **frozen(count=0)), tmp_path / "b"))


def test_running_statistics_go_on(tmp_path):
    train(config(tmp_path, **frozen(part="norm")), tmp_path / "a", KEEP)
    one, two = (load(tmp_path / "a" / f"epoch_{i}.pth")["state_dict"] for i in (1, 2))
    assert torch.equal(one["norm.weight"], two["norm.weight"])
    assert not torch.equal(one["norm.running_mean"], two["norm.running_mean"])


ACCUMULATE = ("optim_wrapper.accumulative_counts=3", "optim_wrapper.clip_grad={max_norm: 1.0}")
CASES = [
    ("epoch", 2, "epoch_1.pth", ()),  # within
    ("epoch", 2, "epoch_2.pth", ()),  # the next iteration thaws it
    ("epoch", 2, "epoch_3.pth", ()),  # after
    ("epoch", 2, "epoch_1.pth", ACCUMULATE),  # gradients wait for the next step, none of the frozen part
    ("epoch", 2, "epoch_2.pth", ACCUMULATE),
    ("epoch", 2, "epoch_3.pth", ("optim_wrapper.type=AutocastOptimWrapper",)),
    ("iter", 6, "iter_4.pth", ()),
    ("iter", 6, "iter_8.pth", ()),
]


@pytest.mark.parametrize("loop, count, middle, options", CASES)
def test_resumed_equals_unbroken(tmp_path, loop, count, middle, options):
    path = config(tmp_path, loop, **frozen(loop, count))
    whole = train(path, tmp_path / "whole", KEEP, *options)
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(tmp_path / "whole" / middle, broken / middle)
    resumed = train(path, broken, KEEP, *options, resume="auto")
    assert_equal(whole, resumed)
    assert states(whole) == states(resumed)


@pytest.mark.parametrize("loop, options", [("epoch", ACCUMULATE), ("iter", ())])
def test_two_processes_train_as_one(tmp_path, loop, options):
    """The gradients of what trains are averaged, before and after the part begins to train."""
    options = [KEEP, "model.head.dropout=0", "model.norm=false", "train_dataloader.dataset.noise=0", *options]
    if loop == "iter":
        options += ["train_cfg.max_iters=8", "train_cfg.val_interval=2", "train_dataloader.sampler.shuffle=false"]
    path = config(tmp_path, loop, **frozen(loop, {"epoch": 2, "iter": 3}[loop]))
    out = torchrun("train", path, "--work-dir", tmp_path / "two", "--cfg-options", *options)
    assert out.count("do not train for the first") == 1 and out.count("train from") == 1  # one process logs
    one = train(path, tmp_path / "one", *options, "train_dataloader.batch_size=6")
    names = {"epoch": ("epoch_2.pth", "epoch_4.pth"), "iter": ("iter_2.pth", "iter_8.pth")}[loop]
    first, last = (load(tmp_path / "two" / name) for name in names)
    torch.testing.assert_close(last["state_dict"], one["state_dict"])
    assert states(last) == states(one)
    assert not torch.equal(part_of(first), part_of(last))
    assert len(states(first)) == len(states(last)) - 2


def test_a_scaler_skips_what_is_frozen():
    """Mixed precision in float16: unscaling and stepping pass over parameters without gradients."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    before = model[0].weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    model[0].requires_grad_(False)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for trains in (False, True):
        model[0].requires_grad_(trains)
        scaler.scale(model(torch.ones(3, 2)).sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(model[0].weight, before) != trains


def test_what_never_trains_stays_so(tmp_path):
    cfg = load_config(config(tmp_path, **frozen()))
    cfg.work_dir = str(tmp_path / "w")
    runner = AVSRunner.from_cfg(cfg)
    first = runner.model.get_submodule(PART)
    first.weight.requires_grad_(False)
    runner.train()
    assert not first.weight.requires_grad and first.bias.requires_grad


@pytest.mark.parametrize("arguments", [{}, {"epochs": 1, "iters": 1}, {"epochs": -1}, {"iters": 1.5}])
def test_one_number_is_needed(arguments):
    with pytest.raises(UserError, match="FreezeBackbone: expected epochs or iters"):
        FreezeBackbone(**arguments)


def test_what_does_not_go_with_the_run_is_told(tmp_path):
    with pytest.raises(UserError, match="no part 'backbone'; it has data_preprocessor, norm, head"):
        run_training(config(tmp_path, **frozen(part="backbone")), work_dir=str(tmp_path / "a"))
    path = config(tmp_path, "iter", custom_hooks=[{"type": "FreezeBackbone", "epochs": 2, "part": PART}])
    with pytest.raises(UserError, match="epochs applies to training by epoch; set iters"):
        run_training(path, work_dir=str(tmp_path / "b"))
