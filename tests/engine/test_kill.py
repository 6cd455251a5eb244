"""kill -9 at random moments: at most one checkpoint interval is lost, and the end is equal to the bit.

Two kills in CI; more by KILLS=20 pytest tests/engine/test_kill.py. The seed of the moments is in the captured output.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from avsmamba.engine.work_dir import checkpoints, find_latest
from tests import ROOT
from tests.engine.standins import TRAIN, config
from tests.engine.test_resume import assert_equal, load

KILLS = int(os.environ.get("KILLS", "2"))
INTERVAL, ITERATIONS = 3, 90 + 20 * KILLS
OPTIONS = (
    f"train_cfg.max_iters={ITERATIONS}",
    f"train_cfg.val_interval={ITERATIONS}",
    f"default_hooks.checkpoint.interval={INTERVAL}",
    "default_hooks.logger.interval=1",
)
pytestmark = pytest.mark.timeout(120 * KILLS + 300)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    while STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(STARTED.pop().pid, signal.SIGKILL)


def start(command, path, work_dir, *more):
    words = [*command, str(path), "--work-dir", str(work_dir), "--resume", *more, "--cfg-options", *OPTIONS]
    # torchrun's workers must not share its store, or after a restart they look for the addresses of the dead ones
    # (pytorch#135712).
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    process = subprocess.Popen(
        words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    STARTED.append(process)
    return process


def read_until(process, iteration):
    """Return the iteration of the first line at or after `iteration`, and all lines before it; None at the end."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r" it (\d+)/", line)
        if found and int(found[1]) >= iteration:
            return int(found[1]), "".join(lines)
    return None, "".join(lines)


def latest(work_dir):
    path = find_latest(work_dir)
    return 0 if path is None else int(path.stem.partition("_")[2])


def random_moments():
    seed = random.randrange(10**6)
    print("seed of the moments:", seed)
    return random.Random(seed)


def assert_same_end(path, tmp_path, command, *more):
    process = start(command, path, tmp_path / "whole", *more)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    whole, killed = (load(tmp_path / name / f"iter_{ITERATIONS}.pth") for name in ("whole", "killed"))
    assert_equal(whole, killed)
    assert len(checkpoints(tmp_path / "killed")) == 2
    assert not [p.name for p in (tmp_path / "killed").rglob(".*") if p.name != ".lock"]


def test_one_process(tmp_path):
    path, moments = config(tmp_path, "iter", 1, True), random_moments()
    work_dir = tmp_path / "killed"
    for kill in range(KILLS + 1):
        process = start(TRAIN, path, work_dir)
        if kill == KILLS:
            out = process.communicate(timeout=300)[0]
            assert process.returncode == 0, out
            break
        seen, out = read_until(process, latest(work_dir) + moments.randint(1, 15))
        assert seen is not None, out
        time.sleep(moments.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert latest(work_dir) >= seen - seen % INTERVAL - INTERVAL
    assert_same_end(path, tmp_path, TRAIN)


def test_a_rank_of_two_is_killed_and_torchrun_starts_again(tmp_path):
    """The whole group starts again from the last checkpoint.

    More restarts than kills are allowed: on a busy machine a start may fail by itself.
    """
    path, moments = config(tmp_path, "iter", 0), random_moments()
    work_dir = tmp_path / "killed"
    command = [*TORCHRUN, "--max-restarts=100", *TRAIN[1:]]
    process = start(command, path, work_dir, "--launcher", "pytorch")
    out = ""
    for _ in range(KILLS):
        seen, lines = read_until(process, latest(work_dir) + moments.randint(1, 15))
        out += lines
        assert seen is not None, out
        time.sleep(moments.uniform(0, 0.05))
        os.kill(moments.choice(ranks(process.pid)), signal.SIGKILL)
        out += wait_for_restart(process)
        assert latest(work_dir) >= seen - seen % INTERVAL - INTERVAL
    out += process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    assert_same_end(path, tmp_path, [*TORCHRUN, *TRAIN[1:]], "--launcher", "pytorch")


def ranks(parent):
    """Return the process numbers of torchrun's workers."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "tests.engine.drive" in line]


def wait_for_restart(process):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Resumed from" in line or "Nothing to resume" in line:
            return "".join(lines)
    raise AssertionError("".join(lines))
