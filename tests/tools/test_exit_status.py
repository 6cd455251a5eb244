"""tools/train.py and tools/test.py as a user runs them: what they print, and how they end."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.engine.standins import ROOT, config

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "AVSBENCH_ROOT"} | {"OMP_NUM_THREADS": "1"}
SHAPES = ROOT / "configs" / "avs_mamba" / "avs_mamba_tiny_ms3_shapes.yaml"


def run(tool, *arguments, **environment):
    """A tool with the stand-ins; its status, stdout and stderr."""
    command = [sys.executable, "-m", "tests.engine.drive", tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and the work dir of its training, by the command."""
    folder = tmp_path_factory.mktemp("trained")
    path = config(folder)
    return path, folder / "w", run("train", path, "--work-dir", folder / "w")


def test_a_training_is_quiet_and_ends_well(trained):
    _, work_dir, (status, out, err) = trained
    assert (status, err) == (0, "")
    assert (work_dir / "epoch_4.pth").is_file()
    lines = out.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), out
    assert len(lines) < 16


def test_resume_and_amp(trained):
    path, work_dir, _ = trained
    more = ["--cfg-options", "train_cfg.max_epochs=5"]
    status, out, err = run("train", path, "--work-dir", work_dir, "--resume", "--amp", *more)
    assert (status, err) == (0, "")
    assert "epoch_4.pth" in out and "epoch 5/5 it 4/4 loss" in out and "epoch 4/" not in out
    assert torch.load(work_dir / "epoch_5.pth")["meta"]["iter"] == 20
    assert "type: AutocastOptimWrapper" in (work_dir / path.name).read_text()


def test_a_test_is_quiet_and_ends_well(trained, tmp_path):
    path, work_dir, _ = trained
    status, out, err = run("test", path, work_dir / "epoch_4.pth", "--work-dir", tmp_path, "--audio", "silence")
    assert (status, err) == (0, "")
    assert (tmp_path / "metrics.json").is_file()
    table = [line for line in out.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert table[0].startswith("7 clips, 35 frames, sound: silence")
    assert [line.split()[0] for line in table[1:4]] == ["protocol", "frame", "avsbench"]
    assert len(out.splitlines()) < 12


FAULTS = {
    "missing config": ["none.yaml: no such file"],
    "unknown key": ["model.head.droput: StandInHead takes no 'droput'; did you mean 'dropout'?"],
    "option without value": ["--cfg-options: expected key=value, got 'model'"],
    "missing data root": ["--data-root: no such folder: ", "nowhere"],
    "missing data set": ["Multi-sources"],
    "faulty file, met by a worker": ["nowhere/3.png: expected 5 frames, found 4"],
    "missing checkpoint": ["none.pth: no such checkpoint"],
    "damaged checkpoint": ["damaged.pth: cut short, damaged, or not a checkpoint"],
    "checkpoint of another width": ["epoch_4.pth", "norm.weight is (4,), the model's (6,)"],
    "checkpoint with code": ["code.pth: holds more than weights; nothing was executed"],
}


@pytest.fixture(scope="module")
def faults(trained, tmp_path_factory):
    """What became of each fault; two at a time, for most of it is the import of torch."""
    path, work_dir, _ = trained
    folder = tmp_path_factory.mktemp("faults")
    checkpoint = work_dir / "epoch_4.pth"
    (folder / "damaged.pth").write_bytes(checkpoint.read_bytes()[:-200])
    torch.save({"state_dict": {}, "x": subprocess.run}, folder / "code.pth")
    (folder / "empty").mkdir()
    workers = ["train_dataloader.num_workers=1", "train_dataloader.dataset.faulty=3"]
    commands = {
        "missing config": ["train", folder / "none.yaml"],
        "unknown key": ["train", path, "--cfg-options", "model.head.droput=0"],
        "option without value": ["test", path, checkpoint, "--cfg-options", "model"],
        "missing data root": ["train", path, "--data-root", folder / "nowhere"],
        "missing data set": ["train", SHAPES, "--data-root", folder / "empty", "--work-dir", folder / "w"],
        "faulty file, met by a worker": ["train", path, "--work-dir", folder / "w", "--cfg-options", *workers],
        "missing checkpoint": ["test", path, folder / "none.pth"],
        "damaged checkpoint": ["test", path, folder / "damaged.pth", "--work-dir", folder / "w"],
        "checkpoint of another width": ["test", path, checkpoint, "--work-dir", folder / "w", "--cfg-options"]
        + ["model.embed_dims=6"],
        "checkpoint with code": ["test", path, folder / "code.pth", "--work-dir", folder / "w"],
    }
    assert commands.keys() == FAULTS.keys()
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(commands, pool.map(lambda words: run(*words), commands.values()), strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_status_2(faults, fault):
    status, out, err = faults[fault]
    assert status == 2, err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out
    for words in FAULTS[fault]:
        assert words in err
