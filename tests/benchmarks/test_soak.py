"""The soak: what it reads of processes, what it calls growth, and a training that it ends."""

import json
import os
import subprocess
import sys

import pytest
import soak

from avsmamba.sounding_shapes.generate import make_sounding_shapes
from tests import ROOT


def test_windows_are_medians_without_the_start():
    seconds = [10.0 * (k + 1) for k in range(360)]
    samples = [
        {"seconds": s, "iterations": 2 * s, "memory": 900.0 if s < 360 else 100 + s / 60, "files": 3} for s in seconds
    ]
    samples[200]["memory"] = 5000.0
    parts = soak.windows(samples)
    assert [round(p["seconds"] / 60) for p in parts] == [11, 21, 31, 41, 51]
    assert [p["memory"] for p in parts] == pytest.approx([111, 121, 131, 141, 151], abs=0.2)
    assert soak.windows(samples[:50]) == []
    # The 501st iteration, after the second validation, is later.
    slow = [{**s, "iterations": s["seconds"] / 2} for s in samples]
    assert [round(p["seconds"] / 60) for p in soak.windows(slow)] == [22, 32, 42, 52]
    assert soak.windows([{**s, "iterations": s["seconds"] / 10} for s in samples]) == []


def test_a_process_and_its_children():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        found, values = soak.tree(process.pid), soak.sample(process.pid)
        process.communicate(b"\n")
    assert len(found) == 2 and found[0] == process.pid
    assert values["processes"] == values["threads"] == 2 and 3 <= values["open_files"] < 20
    assert 1 < values["training"] < values["memory"] < 200
    assert soak.tree(os.getpid())[0] == os.getpid()


def test_a_training_is_watched_and_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(soak, "EVERY", 0.5)
    make_sounding_shapes(tmp_path / "d", "ms3", {"train": 8, "val": 4}, size=32, seed=0)
    more = ["--data-root", str(tmp_path / "d")]
    result = soak.soak(soak.CONFIG, 10, tmp_path / "w", more, most=20)
    log = (tmp_path / "w" / "soak.log").read_text()
    assert result["status"] == 130, log
    assert result["iterations"] >= 20, log
    lines = (tmp_path / "w" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result["samples"] and len(lines) > 10
    assert max(s["training"] for s in result["samples"]) > 100
    assert result["left"]["hidden"] == result["left"]["shared_memory"] == []
    assert not [name for name in result["left"]["temporary"] if name.startswith("pymp-")]
