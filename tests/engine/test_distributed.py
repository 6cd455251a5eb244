"""Two processes on the CPU: they train as one with twice the batch, and score an uneven test set as one."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from avsmamba.config.load import load_config
from avsmamba.engine import distributed
from avsmamba.engine.distributed import process_group
from avsmamba.engine.evaluate import evaluate
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from tests import ROOT
from tests.config.test_load import fails
from tests.engine.standins import config
from tests.engine.test_resume import assert_equal, load, train
from tests.small_model import CONFIG, SMALL

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def torchrun(tool, *arguments, processes=2):
    """Run a tool under torchrun and return its output."""
    return launch(processes, "tests.engine.drive", tool, *arguments, "--launcher", "pytorch")


def launch(processes, module, *arguments):
    """Run a module under torchrun and return its output."""
    command = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", module]
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | ALONE,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    options = ["model.head.dropout=0", "model.norm=false", "train_dataloader.dataset.noise=0"]
    path = config(tmp_path)
    torchrun("train", path, "--work-dir", tmp_path / "two", "--cfg-options", *options)
    one = train(path, tmp_path / "one", *options, "train_dataloader.batch_size=6")
    two = load(tmp_path / "two" / "epoch_4.pth")
    torch.testing.assert_close(two["state_dict"], one["state_dict"])
    assert two["meta"]["iter"] == 8
    assert json.loads((tmp_path / "two" / "env.json").read_text())["processes"] == 2


def test_two_processes_score_as_one(tmp_path):
    """With batch normalisation, whose statistics differ between the processes until they are shared."""
    path = config(tmp_path, "iter")
    out = torchrun("train", path, "--work-dir", tmp_path / "w", "--cfg-options", "default_hooks.logger.interval=1")
    assert out.count("it 16/16 loss") == 1  # one process writes the log
    (best,) = (tmp_path / "w").glob("best_M_J_*.pth")
    one = evaluate(path, best, work_dir=str(tmp_path / "one"))
    out = torchrun("test", path, best, "--work-dir", tmp_path / "two")
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two == one
    assert out.count("7 clips, 35 frames") == 1
    (log,) = (tmp_path / "w").glob("*/vis_data/scalars.json")
    scores = [json.loads(line).get("M_J") for line in log.read_text().splitlines()]
    assert one["frame"]["M_J"] == max(s for s in scores if s is not None)


def test_three_processes_score_a_real_model_as_one(tmp_path, checkpoint):
    """Seven clips in batches of two: the processes have three, two and two of them, the last batches one or two."""
    shapes = tmp_path / "shapes"
    make_sounding_shapes(shapes, "ms3", {"train": 1, "val": 1, "test": 7}, size=40, seed=2)
    options = [*SMALL, "test_dataloader.batch_size=2"]
    one = evaluate(CONFIG, checkpoint, work_dir=str(tmp_path / "one"), options=options, data_root=str(shapes))
    arguments = [CONFIG, checkpoint, "--data-root", shapes, "--work-dir", tmp_path / "three", "--cfg-options", *options]
    torchrun("test", *arguments, processes=3)
    three = json.loads((tmp_path / "three" / "metrics.json").read_text())
    assert three == json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert one["clips"] == 7 and 0 < one["frame"]["M_J"] < 1


@pytest.fixture
def slurm(monkeypatch):
    """Set the environment of one process of srun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PROCID": 0, "NTASKS": 1, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("MASTER_PORT", str(port))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there mmengine makes the process group")
def test_slurm_trains(tmp_path, slurm):
    path = config(tmp_path)
    assert_equal(train(path, tmp_path / "a"), train(path, tmp_path / "b", launcher="slurm"))
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there mmengine makes the process group")
def test_slurm_variables(tmp_path, slurm, monkeypatch):
    groups = []
    monkeypatch.setattr(
        distributed.dist, "init_process_group", lambda backend: groups.append((backend, dict(os.environ)))
    )
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    monkeypatch.setenv("SLURM_NODELIST", "node[03-05,8]")
    monkeypatch.delenv("MASTER_PORT")
    cfg = load_config(config(tmp_path))
    with process_group(cfg, "slurm"):
        pass
    ((backend, environment),) = groups
    assert backend == "gloo"
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node03", "MASTER_PORT": "29500"}
    assert {k: environment[k] for k in expected} == expected
    assert cfg.launcher == "slurm"
    assert cfg.model_wrapper_cfg.device_ids is None
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1234")
    with process_group(cfg, "slurm"):
        pass
    assert groups[1][1]["MASTER_ADDR"] == "10.0.0.1"
    assert groups[1][1]["MASTER_PORT"] == "1234"


@pytest.mark.parametrize(
    "nodes, first",
    [("", "127.0.0.1"), ("one", "one"), ("a1,b2", "a1"), ("n[7-9]", "n7"), ("gpu-[001,003]", "gpu-001")],
)
def test_first_host(nodes, first, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert distributed._first_host(nodes) == first
    script = tmp_path / "scontrol"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[1:3] == ['show', 'hostnames']\nprint('x1\\nx2')\n"
    )
    script.chmod(0o755)
    assert distributed._first_host(nodes) == ("x1" if nodes else first)


def test_launchers_that_do_not_fit_the_environment(tmp_path, monkeypatch):
    path = config(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    fails(
        "--launcher pytorch: RANK is not set; start the processes with torchrun",
        train,
        path,
        tmp_path / "w",
        launcher="pytorch",
    )
    fails(
        "--launcher slurm: SLURM_PROCID is not set; start the processes with srun",
        train,
        path,
        tmp_path / "w",
        launcher="slurm",
    )
    fails("--launcher: expected one of none, pytorch, slurm", train, path, tmp_path / "w", launcher="mpi")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    fails("pass --launcher pytorch", train, path, tmp_path / "w")
