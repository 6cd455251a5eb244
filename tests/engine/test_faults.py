"""Faults of a training and what they leave: damaged files, a full disk, a second run, a dead worker, a clock."""

import ctypes
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from avsmamba.engine import runner as runner_module
from avsmamba.engine.train import train as run_training
from avsmamba.engine.work_dir import find_latest, only_run_in
from avsmamba.utils import UserError
from tests import ROOT
from tests.engine.standins import TRAIN, config
from tests.engine.test_resume import assert_equal, train

KEEP = "default_hooks.checkpoint.max_keep_ckpts=-1"


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b"\0" * len(content)}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "other"])
def test_a_damaged_last_checkpoint_is_reported_and_the_one_before_it_taken(tmp_path, capfd, how):
    path = config(tmp_path)
    whole = train(path, tmp_path / "whole", KEEP)
    broken = tmp_path / "broken"
    train(path, broken, KEEP)
    for number in (3, 4):
        damage(broken / f"epoch_{number}.pth", how)
    capfd.readouterr()
    assert_equal(whole, train(path, broken, KEEP, resume="auto"))
    out = "".join(capfd.readouterr())
    assert len(re.findall(r"epoch_[34]\.pth: .*the checkpoint before it is used", out)) >= 2
    assert "Resumed from" in out and "epoch_2.pth" in out


def test_all_checkpoints_are_damaged(tmp_path, capfd):
    path = config(tmp_path)
    whole = train(path, tmp_path / "w", KEEP)
    for checkpoint in (tmp_path / "w").glob("epoch_*.pth"):
        damage(checkpoint, "cut")
    assert_equal(whole, train(path, tmp_path / "w", KEEP, resume="auto"))
    assert "Nothing to resume" in "".join(capfd.readouterr())


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path):
    """A limit of the file size makes the write itself fail, as a full disk does."""
    path = config(tmp_path)
    work_dir = tmp_path / "w"
    whole = train(path, tmp_path / "whole", KEEP)
    work_dir.mkdir()
    for number in (1, 2):
        shutil.copy(tmp_path / "whole" / f"epoch_{number}.pth", work_dir)
    size = (work_dir / "epoch_2.pth").stat().st_size
    command = [*TRAIN, str(path), "--work-dir", str(work_dir), "--resume"]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, preexec_fn=limit, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"epoch_3\.pth: cannot be written \(.*\); the checkpoints before it are complete", done.stderr)
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in work_dir.glob("*.pth") if p.name.startswith("epoch")) == [
        "epoch_1.pth",
        "epoch_2.pth",
    ]
    assert not [p for p in work_dir.iterdir() if p.name.startswith(".")]
    assert_equal(whole, train(path, work_dir, KEEP, resume="auto"))


def test_a_second_run_in_a_work_dir_is_refused(tmp_path):
    path = config(tmp_path)
    work_dir = tmp_path / "w"
    with only_run_in(work_dir):
        command = [*TRAIN, str(path), "--work-dir", str(work_dir)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert f"another training runs in {work_dir} (process {os.getpid()})" in done.stderr
        assert [p.name for p in work_dir.iterdir()] == [".lock"]
    assert not [*work_dir.iterdir()]
    train(path, work_dir)
    assert not (work_dir / ".lock").exists()


def test_a_killed_run_leaves_its_work_dir_free(tmp_path):
    code = "import sys; from avsmamba.engine.work_dir import only_run_in\n"
    code += "with only_run_in(sys.argv[1]): print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "1\n"
    with pytest.raises(UserError, match=f"process {process.pid}"), only_run_in(tmp_path):
        pass
    process.kill()
    process.wait()
    with only_run_in(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_checkpoint_that_a_killed_run_was_writing_is_removed(tmp_path):
    kept = [tmp_path / name for name in (".notes.pth", "iter_3.pth", ".iter_3.txt")]
    for path in [*kept, tmp_path / ".iter_15.a58qr6ua.pth", tmp_path / ".best_M_J_epoch_2.x_0abcde.pth"]:
        path.touch()
    with only_run_in(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".lock", *(p.name for p in kept)])


def test_a_work_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="work_dir: .*file.*cannot be written"):
        run_training(config(tmp_path), work_dir=str(tmp_path / "file"))


def obey_permissions():
    """Take from root, in the program that follows, the right to write where the permissions forbid it."""
    pr_capbset_drop, cap_dac_override = 24, 1
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0)


def test_a_read_only_work_dir_is_named_at_once_and_nothing_in_it_changes(tmp_path):
    path, work_dir = config(tmp_path), tmp_path / "w"
    whole = train(path, work_dir, KEEP)
    before = {p: p.stat().st_mtime_ns for p in work_dir.rglob("*")}
    command = [*TRAIN, str(path), "--work-dir", str(work_dir), "--resume"]
    work_dir.chmod(0o555)
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, preexec_fn=obey_permissions, timeout=300
        )
    finally:
        work_dir.chmod(0o755)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"work_dir: {work_dir}: cannot be written ([Errno 13] Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.stat().st_mtime_ns for p in work_dir.rglob("*")} == before
    assert_equal(whole, train(path, work_dir, KEEP, resume="auto"))


def test_a_work_dir_that_becomes_read_only_keeps_its_checkpoints(tmp_path):
    path, work_dir = config(tmp_path), tmp_path / "w"
    whole = train(path, tmp_path / "whole", KEEP)
    options = [KEEP, "default_hooks.logger.interval=1"]
    command = [*TRAIN, str(path), "--work-dir", str(work_dir)]
    process = subprocess.Popen(
        [*command, "--cfg-options", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=obey_permissions,
    )
    try:
        out = ""
        for line in process.stdout:
            out += line
            if "epoch 2/" in line:
                work_dir.chmod(0o555)
        assert process.wait(300) == 2, out
    finally:
        process.kill()
        work_dir.chmod(0o755)
    assert re.search(rf"error: {re.escape(str(work_dir))}.*cannot be written", out), out
    assert "Traceback" not in out
    assert find_latest(work_dir).name == "epoch_1.pth"
    assert_equal(whole, train(path, work_dir, KEEP, resume="auto"))


@pytest.fixture
def short_folder():
    """A folder for sockets, whose paths have at most 107 characters; those of `tmp_path` may be longer."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("persistent", [False, True])
def test_an_interrupted_training_leaves_no_temporary_file(tmp_path, short_folder, persistent):
    """Workers pass tensors to the training through sockets in the folder of temporary files."""
    path = config(tmp_path, "iter", 1, persistent)
    work_dir, temporary = tmp_path / "w", short_folder
    command = [*TRAIN, str(path), "--work-dir", str(work_dir)]
    env = {**os.environ, "TMPDIR": str(temporary)}
    options = ["train_cfg.max_iters=100000", "default_hooks.logger.interval=1"]
    process = subprocess.Popen(
        [*command, "--cfg-options", *options], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    seen = next(line for line in process.stdout if " it 5/" in line)
    used = [*temporary.glob("pymp-*")]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert seen and used and process.returncode == 130
    assert not [*temporary.glob("pymp-*")]
    assert not [p.name for p in work_dir.rglob(".*")]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_dead_worker_ends_the_training_in_one_line_and_it_can_be_resumed(tmp_path, monkeypatch):
    path = config(tmp_path, "epoch", 1, True)
    whole = train(path, tmp_path / "whole", KEEP)
    kill = runner_module.AVSRunner.call_hook

    def call_hook(self, name, **arguments):
        if name == "before_train_iter" and self.iter == 10:
            for worker in self.train_loop.dataloader._iterator._workers:
                os.kill(worker.pid, signal.SIGKILL)
                worker.join(30)
        kill(self, name, **arguments)

    work_dir = tmp_path / "w"
    with monkeypatch.context() as patch, pytest.raises(UserError, match="a data worker died"):
        patch.setattr(runner_module.AVSRunner, "call_hook", call_hook)
        train(path, work_dir, KEEP)
    assert find_latest(work_dir).name == "epoch_2.pth"
    assert_equal(whole, train(path, work_dir, KEEP, resume="auto"))


def test_a_clock_that_jumps_changes_no_weight_and_no_line_is_negative(tmp_path, monkeypatch, capfd):
    path = config(tmp_path)
    whole = train(path, tmp_path / "whole", "default_hooks.logger.interval=1")
    capfd.readouterr()
    jumps, real = itertools.cycle([0.0, -86400.0, 3600.0, -7.0]), time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + next(jumps))
        other = train(path, tmp_path / "jumps", "default_hooks.logger.interval=1")
    assert_equal(whole, other)
    out = capfd.readouterr().out
    assert out.count(" s/it data ") >= 16
    assert not re.search(r"-\d+(\.\d+)? s/it|data -|eta -", out)
