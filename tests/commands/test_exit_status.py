"""tools/train.py and tools/test.py as a user runs them: what they print, and how they end."""

import os
import re
import runpy
import subprocess
import sys

import pytest
import torch

from tests import ROOT
from tests.engine.standins import config

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "AVSBENCH_ROOT"} | {"OMP_NUM_THREADS": "1"}
SHAPES = ROOT / "configs" / "avs_mamba" / "avs_mamba_tiny_ms3_shapes.yaml"


def run(tool, *arguments, **environment):
    """Run a tool with the small model; return status, stdout and stderr."""
    command = [sys.executable, "-m", "tests.engine.drive", tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train and return the config and the work dir."""
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
    status, out, err = run(
        "test", path, work_dir / "epoch_4.pth", "--work-dir", tmp_path, "--audio", "silence", "--amp"
    )
    assert (status, err) == (0, "")
    assert (tmp_path / "metrics.json").is_file()
    table = [line for line in out.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert table[0].startswith("7 clips, 35 frames, sound: silence") and table[0].endswith(", bfloat16")
    assert [line.split()[0] for line in table[1:4]] == ["protocol", "frame", "avsbench"]
    assert len(out.splitlines()) < 12


@pytest.fixture(scope="module")
def places(trained, tmp_path_factory):
    """Return the paths for the names in the commands below."""
    path, work_dir, _ = trained
    folder = tmp_path_factory.mktemp("faults")
    checkpoint = work_dir / "epoch_4.pth"
    (folder / "damaged.pth").write_bytes(checkpoint.read_bytes()[:-200])
    torch.save({"state_dict": {}, "x": subprocess.run}, folder / "code.pth")
    (folder / "empty").mkdir()
    return {"CONFIG": path, "SHAPES": SHAPES, "CHECKPOINT": checkpoint, "DIR": folder}


FAULTS = [
    ("train DIR/none.yaml", ["none.yaml: no such file"]),
    ("train CONFIG --cfg-options model.head.droput=0", ["model.head.droput: StandInHead takes no", "'dropout'?"]),
    ("train CONFIG --data-root DIR/nowhere", ["--data-root: no such folder: ", "nowhere"]),
    ("train SHAPES --data-root DIR/empty", ["Multi-sources"]),
    ("train CONFIG --resume DIR/none.pth", ["--resume: no such checkpoint: ", "none.pth"]),
    ("train CONFIG --launcher pytorch", ["--launcher pytorch: RANK is not set"]),
    ("test CONFIG CHECKPOINT --cfg-options model", ["--cfg-options: expected key=value, got 'model'"]),
    ("test CONFIG DIR/none.pth", ["none.pth: no such checkpoint"]),
    ("test CONFIG DIR/damaged.pth", ["damaged.pth: cut short, damaged, or not a checkpoint"]),
    ("test CONFIG CHECKPOINT --cfg-options model.embed_dims=6", ["norm.weight is (4,), the model's (6,)"]),
    ("test CONFIG DIR/code.pth", ["code.pth: holds more than weights; nothing was executed"]),
    ("test SHAPES CHECKPOINT --data-root DIR/empty", ["Multi-sources"]),
    ("test CONFIG CHECKPOINT --robustness --audio noise", ["--robustness: tests with each sound"]),
    ("test SHAPES DIR/none.pth --robustness", ["none.pth: no such checkpoint"]),
    ("visualize_features CONFIG CHECKPOINT --out DIR/x", ["model.pyramid is null"]),
    ("qualitative CONFIG --pred A --out DIR/x.png", ["--pred: expected NAME=DIR, got 'A'"]),
    ("complexity --configs CONFIG --sizes 100 --out DIR/x", ["--sizes: expected multiples of 32 pixels, got 100"]),
    ("train SHAPES --cfg-options model.encoder.num_layers=-1", ["model.encoder.num_layers: expected at least 1, got"]),
    ("train SHAPES --cfg-options model.encoder.num_layers=two", ["num_layers: expected an integer, got 'two'"]),
    ("train SHAPES --cfg-options model.embed_dims=0", ["model.embed_dims: expected at least 1, got 0"]),
    ("train SHAPES --cfg-options optim_wrapper.optimizer.lr=fast", ["optimizer.lr: expected a number, got 'fast'"]),
    ("train SHAPES --cfg-options train_cfg.max_iters=many", ["train_cfg.max_iters: expected an integer, got 'many'"]),
    ("train SHAPES --cfg-options model.head=null", ["model.head: is needed, expected a mapping, got null"]),
    ("test SHAPES CHECKPOINT --cfg-options model.losses=null", ["model.losses: is needed, expected a list of mapp"]),
    ("train CONFIG --cfg-options default_hooks.logger.interval=0", ["default_hooks or custom_hooks: ", "interval"]),
]


FAULTY_FILE = "train CONFIG --cfg-options train_dataloader.num_workers=1 train_dataloader.dataset.faulty=3"


@pytest.mark.parametrize("command, words", FAULTS)
def test_a_fault_is_one_line_and_status_2(places, command, words, monkeypatch, capfd, tmp_path):
    """In this process, for speed; as a command of its own below."""
    tool, *arguments = _words(command, places)
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVSBENCH_ROOT", raising=False)
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
    assert_one_line(left.value.code, *capfd.readouterr(), words)


@pytest.mark.parametrize("command, words", [FAULTS[0], FAULTS[8], (FAULTY_FILE, ["nowhere/3.png: expected 5 frames"])])
def test_a_fault_as_a_command(places, command, words, tmp_path):
    tool, config_file, *rest = _words(command, places)
    assert_one_line(*run(tool, config_file, *rest, "--work-dir", tmp_path), words)


def _words(command, places):
    for name, place in places.items():
        command = command.replace(name, str(place))
    return command.split()


def assert_one_line(status, out, err, words):
    assert status == 2, err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out
    for word in words:
        assert word in err
