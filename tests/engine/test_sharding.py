"""FSDP2 and sharded checkpoints: they train as one process does, and resume with any number of processes."""

import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from avsmamba.config.load import load_config
from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.runner import AVSRunner
from avsmamba.engine.sharded_files import check_sharded, read_sharded
from avsmamba.engine.sharding import FullyShard, check_sharding
from avsmamba.engine.train import train as run_training
from avsmamba.engine.work_dir import find_latest
from avsmamba.utils import UserError
from tests.engine.standins import config
from tests.engine.test_distributed import torchrun
from tests.engine.test_resume import assert_equal, load, train

PART = "head.layers.0"
# What differs between processes is off, and a gradient that is clipped and a part that is frozen at first are on.
OPTIONS = [
    "model.head.dropout=0",
    "model.norm=false",
    "train_dataloader.dataset.noise=0",
    "optim_wrapper.clip_grad={max_norm: 1.0}",
    "default_hooks.checkpoint.max_keep_ckpts=-1",
    "default_hooks.logger.interval=1",
]
SHARDED = "default_hooks.checkpoint.sharded=true"
WHOLE_BATCH = "train_dataloader.batch_size=6"


def write_config(folder, **more):
    more = {"model_wrapper_cfg": {"type": "FullyShard", "classes": ["StandInHead"]}} | more
    return config(folder, custom_hooks=[{"type": "FreezeBackbone", "epochs": 1, "part": PART}], **more)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The work dir of one process, with every checkpoint."""
    folder = tmp_path_factory.mktemp("one")
    train(write_config(folder), folder / "w", *OPTIONS, WHOLE_BATCH)
    return folder / "w"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, one):
    """The work dir of two processes that resume the run of one after two epochs and write sharded checkpoints."""
    folder = tmp_path_factory.mktemp("folders")
    copy_to(folder / "w", one / "epoch_2.pth")
    arguments = ["--work-dir", folder / "w", "--resume", "--cfg-options", *OPTIONS, SHARDED]
    assert "epoch_2.pth" in torchrun("train", write_config(folder), *arguments)
    return folder / "w"


def copy_to(work_dir, checkpoint):
    work_dir.mkdir()
    copy = shutil.copytree if checkpoint.is_dir() else shutil.copy
    copy(checkpoint, work_dir / checkpoint.name)


def assert_close(found, expected):
    torch.testing.assert_close(found["state_dict"], expected["state_dict"])
    torch.testing.assert_close(found["optimizer"]["state"], expected["optimizer"]["state"])
    assert [s["last_step"] for s in found["param_schedulers"]] == [s["last_step"] for s in expected["param_schedulers"]]
    assert found["meta"]["iter"] == expected["meta"]["iter"] == 8


def test_two_processes_train_as_one_and_one_resumes(tmp_path, one):
    path = write_config(tmp_path)
    out = torchrun("train", path, "--work-dir", tmp_path / "two", "--cfg-options", *OPTIONS)
    whole = load(one / "epoch_4.pth")
    assert out.count("do not train for the first 1 epochs") == out.count("train from epoch 2 on") == 1
    first, last = (load(tmp_path / "two" / f"epoch_{i}.pth") for i in (1, 4))
    assert_close(last, whole)
    assert all(type(tensor) is torch.Tensor for tensor in last["state_dict"].values())
    assert len(first["optimizer"]["state"]) == len(last["optimizer"]["state"]) - 2  # what was frozen has no state
    copy_to(tmp_path / "resumed", tmp_path / "two" / "epoch_2.pth")
    assert_close(train(path, tmp_path / "resumed", *OPTIONS, WHOLE_BATCH, resume="auto"), whole)
    (best,) = (tmp_path / "two").glob("best_M_J_*.pth")
    assert evaluate(path, best, options=OPTIONS, work_dir=str(tmp_path / "t"))["clips"] == 7


def test_two_processes_resume_one_s_file_and_one_resumes_their_folder(tmp_path, one, folders):
    assert sorted(p.name for p in folders.glob("epoch_*")) == ["epoch_2.pth", "epoch_3.dcp", "epoch_4.dcp"]
    assert not [p for p in folders.iterdir() if p.name.startswith(".")]
    copy_to(tmp_path / "w", folders / "epoch_3.dcp")
    path = write_config(tmp_path)
    assert_close(train(path, tmp_path / "w", *OPTIONS, WHOLE_BATCH, resume="auto"), load(one / "epoch_4.pth"))


def test_three_processes_of_ddp_resume_the_folder_of_two_of_fsdp(tmp_path, one, folders):
    copy_to(tmp_path / "w", folders / "epoch_3.dcp")
    path = write_config(tmp_path, model_wrapper_cfg={"type": "MMDistributedDataParallel"})
    options = [*OPTIONS, "train_dataloader.batch_size=2"]
    resume = ["--resume", tmp_path / "w" / "epoch_3.dcp"]
    torchrun("train", path, "--work-dir", tmp_path / "w", *resume, "--cfg-options", *options, processes=3)
    assert_close(load(tmp_path / "w" / "epoch_4.pth"), load(one / "epoch_4.pth"))


def test_a_folder_becomes_one_file_by_torch_s_program(tmp_path, one, folders):
    file = tmp_path / "epoch_4.pth"
    command = ["torch.distributed.checkpoint.format_utils", "dcp_to_torch", str(folders / "epoch_4.dcp"), str(file)]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    torch.testing.assert_close(load(file)["state_dict"], load(one / "epoch_4.pth")["state_dict"])
    found = evaluate(write_config(tmp_path), file, options=OPTIONS, work_dir=str(tmp_path / "a"))
    expected = evaluate(write_config(tmp_path), one / "epoch_4.pth", options=OPTIONS, work_dir=str(tmp_path / "b"))
    assert found["frame"] == pytest.approx(expected["frame"], abs=1e-6)


def test_one_process_writes_and_resumes_folders_exactly(tmp_path):
    path = config(tmp_path, "iter")  # with dropout and noise
    options = [SHARDED, "default_hooks.checkpoint.max_keep_ckpts=2"]
    run_training(path, work_dir=str(tmp_path / "a"), options=options)
    assert sorted(p.name for p in (tmp_path / "a").glob("iter_*")) == ["iter_12.dcp", "iter_16.dcp"]
    copy_to(tmp_path / "b", tmp_path / "a" / "iter_12.dcp")
    run_training(path, work_dir=str(tmp_path / "b"), options=options, resume="auto")
    assert_equal(read(path, tmp_path / "a" / "iter_16.dcp"), read(path, tmp_path / "b" / "iter_16.dcp"))
    (best,) = (tmp_path / "a").glob("best_*.dcp")
    with pytest.raises(UserError, match="no optimizer state"):
        run_training(path, work_dir=str(tmp_path / "c"), resume=str(best))
    tuned = train(path, tmp_path / "d", f"load_from={best}", "train_cfg.max_iters=1")
    assert tuned["meta"]["iter"] == 1


def read(path, folder):
    cfg = load_config(path)
    cfg.work_dir = str(folder.parent / "read")
    runner = AVSRunner.from_cfg(cfg)
    optimizer = runner.build_optim_wrapper(runner.optim_wrapper).optimizer
    return read_sharded(folder, runner.model, optimizer)


@pytest.mark.parametrize("what", ["missing", "cut", "no table", "damaged table"])
def test_a_damaged_folder_is_passed_over(tmp_path, folders, what, capfd):
    for name in ("epoch_3.dcp", "epoch_4.dcp"):
        shutil.copytree(folders / name, tmp_path / name)
    data, table = tmp_path / "epoch_4.dcp" / "__1_0.distcp", tmp_path / "epoch_4.dcp" / ".metadata"
    if what == "missing":
        data.unlink()
    elif what == "cut":
        data.write_bytes(data.read_bytes()[:-9])
    elif what == "no table":
        table.unlink()
    else:
        table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(UserError, match=r"epoch_4\.dcp: damaged"):
        check_sharded(tmp_path / "epoch_4.dcp")
    assert find_latest(tmp_path).name == "epoch_3.dcp"


def test_a_folder_is_replaced_and_what_a_killed_run_left_is_removed(tmp_path):
    path = config(tmp_path)
    for name in (".epoch_1.dcp.new", ".epoch_1.dcp.old", "epoch_1.dcp"):
        (tmp_path / "w" / name).mkdir(parents=True)
        (tmp_path / "w" / name / "left").touch()
    run_training(path, work_dir=str(tmp_path / "w"), options=[SHARDED, "train_cfg.max_epochs=1"])
    assert sorted(p.name for p in (tmp_path / "w").glob("*epoch_1.dcp*")) == ["best_M_J_epoch_1.dcp", "epoch_1.dcp"]
    assert not (tmp_path / "w" / "epoch_1.dcp" / "left").exists()


def test_bfloat16_and_accumulated_gradients(tmp_path):
    """As one process: the same up to bfloat16, whose sums depend on the order."""
    path = write_config(tmp_path)
    options = [*OPTIONS, "optim_wrapper.accumulative_counts=2"]
    torchrun("train", path, "--work-dir", tmp_path / "two", "--amp", "--cfg-options", *options)
    one = train(path, tmp_path / "one", *options, WHOLE_BATCH, amp=True)
    two = load(tmp_path / "two" / "epoch_4.pth")
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-2, atol=1e-3)
    assert all(tensor.dtype == torch.float32 for tensor in two["state_dict"].values())
    plain = train(path, tmp_path / "plain", *OPTIONS, WHOLE_BATCH)
    name = f"{PART}.weight"
    assert not torch.allclose(two["state_dict"][name], plain["state_dict"][name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"optim_wrapper": {"type": "AmpOptimWrapper"}}, "does not go with the loss scaler"),
        ({"custom_hooks": [{"type": "EMAHook"}]}, "does not go with EMAHook"),
    ],
)
def test_what_does_not_go_with_it(more, message):
    with pytest.raises(UserError, match=message):
        check_sharding(Config({"model_wrapper_cfg": {"type": "FullyShard"}, **more}))
    check_sharding(Config(more))


def test_a_class_that_the_model_does_not_have():
    with pytest.raises(ValueError, match="classes: the model has no Block; it has Linear"):
        FullyShard(torch.nn.Linear(1, 1), ["Block"])
