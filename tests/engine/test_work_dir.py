"""The checkpoint to resume from, and the environment of a run."""

import subprocess
import sys

import pytest

from avsmamba.engine.work_dir import _commit, environment, find_latest


@pytest.mark.parametrize(
    ("program", "start"), [("/opt/venv/bin/avsmamba", "avsmamba"), ("tools/train.py", "PYTHON tools/train.py")]
)
def test_the_command_is_recorded_as_it_was_typed(monkeypatch, program, start):
    monkeypatch.setattr(sys, "argv", [program, "x.yaml", "--amp"])
    monkeypatch.setattr(sys, "executable", "/opt/venv/bin/PYTHON")
    assert environment(seed=0)["command"] == f"{start} x.yaml --amp"


def test_the_note_of_the_last_checkpoint_may_be_lost(tmp_path):
    for name in ("iter_9.pth", "iter_100.pth", "best_M_J_iter_200.pth"):
        (tmp_path / name).touch()
    assert find_latest(tmp_path).name == "iter_100.pth"
    (tmp_path / "last_checkpoint").write_text("/gone/iter_9.pth")
    assert find_latest(tmp_path).name == "iter_9.pth"
    (tmp_path / "last_checkpoint").write_text("")
    assert find_latest(tmp_path).name == "iter_100.pth"
    assert find_latest(tmp_path / "nowhere") is None


def test_a_commit_is_marked_if_the_code_differs_from_it(tmp_path):
    assert _commit(tmp_path) is None
    for name in ("avsmamba/a.py", "configs/b.yaml", "csrc/c.cpp", "docs/d.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = _commit(tmp_path)
    assert len(clean) == 12 and "+" not in clean
    (tmp_path / "docs" / "d.md").write_text("2")
    assert _commit(tmp_path / "avsmamba") == clean
    (tmp_path / "configs" / "b.yaml").write_text("2")
    assert _commit(tmp_path / "avsmamba") == f"{clean}+"
