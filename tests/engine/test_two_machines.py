"""Two machines, imitated by two agents of torchrun that meet over TCP; one is killed and comes back."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

from tests import ROOT
from tests.engine.standins import config
from tests.engine.test_resume import assert_equal, load

ITERATIONS, KILLED_AT = 300, 20
OPTIONS = (
    f"train_cfg.max_iters={ITERATIONS}",
    f"train_cfg.val_interval={ITERATIONS}",
    "default_hooks.checkpoint.interval=3",
    "default_hooks.logger.interval=1",
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def machine(port, path, work_dir):
    """Start a machine's agent and its process."""
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "run"]
    counts = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3"]
    # A machine that is lost is noticed within seconds.
    timing = ["--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1"]
    tool = ["-m", "tests.engine.drive", "train", str(path), "--work-dir", str(work_dir), "--launcher", "pytorch"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *rendezvous, *counts, *timing, *tool, "--resume"]
        + ["--cfg-options", *OPTIONS],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_store(port, seconds=120):
    """Wait until the first agent listens. It has the store, which the other one would have if it came first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port}")


def kill(agent):
    """Kill an agent and its process, which has a session of its own, as a power failure does."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent.pid)], capture_output=True, text=True).stdout
    for pid in (agent.pid, *map(int, listed.split())):
        os.kill(pid, signal.SIGKILL)
    agent.wait()
    agent.stdout.close()


def follow(agent, found):
    """Read an agent's output until `found` returns true for a line; return what was read."""
    lines = []
    for line in agent.stdout:
        lines.append(line)
        if found(line):
            return "".join(lines)
    raise AssertionError("".join(lines))


def at_iteration(number):
    return lambda line: (place := re.search(r" it (\d+)/", line)) and int(place[1]) >= number


def test_a_machine_is_lost_and_comes_back(tmp_path):
    path, port = config(tmp_path, "iter"), free_port()
    agents = [machine(port, path, tmp_path / "broken")]
    wait_for_store(port)
    agents.append(machine(port, path, tmp_path / "broken"))
    out = follow(agents[0], at_iteration(KILLED_AT))
    kill(agents[1])
    agents[1] = machine(port, path, tmp_path / "broken")
    out += agents[0].communicate(timeout=240)[0]
    other = agents[1].communicate(timeout=120)[0]
    assert [agent.returncode for agent in agents] == [0, 0], out + other
    assert len(re.findall(r"Resumed from .*iter_\d+\.pth", out + other)) == 1
    port = free_port()
    whole = [machine(port, path, tmp_path / "whole") for _ in range(2)]
    for agent in whole:
        text = agent.communicate(timeout=240)[0]
        assert agent.returncode == 0, text
    broken, unbroken = (load(tmp_path / name / f"iter_{ITERATIONS}.pth") for name in ("broken", "whole"))
    assert_equal(broken, unbroken)
