"""The checkpoint to resume from, and the environment of a run."""

import sys

import pytest
import torch

from avsmamba.engine.work_dir import environment, find_latest


@pytest.mark.parametrize(
    ("program", "start"), [("/opt/venv/bin/avsmamba", "avsmamba"), ("tools/train.py", "PYTHON tools/train.py")]
)
def test_the_command_is_recorded_as_it_was_typed(monkeypatch, program, start):
    monkeypatch.setattr(sys, "argv", [program, "x.yaml", "--amp"])
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/PYTHON")
    assert environment(seed=0)["command"] == f"{start} x.yaml --amp"


def test_the_note_of_the_last_checkpoint_may_be_lost(tmp_path):
    for name in ("iter_9.pth", "iter_100.pth", "best_M_J_iter_200.pth"):
        torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / name)
    assert find_latest(tmp_path).name == "iter_100.pth"
    (tmp_path / "last_checkpoint").write_text("/gone/iter_9.pth")
    assert find_latest(tmp_path).name == "iter_9.pth"
    (tmp_path / "last_checkpoint").write_text("")
    assert find_latest(tmp_path).name == "iter_100.pth"
    assert find_latest(tmp_path / "nowhere") is None
