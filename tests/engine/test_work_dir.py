"""The checkpoint to resume from, and the environment of a run."""

import sys

import pytest
import torch
from mmengine.config import Config

from avsmamba.engine.work_dir import environment, find_latest, set_load_from
from avsmamba.utils import UserError


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


def test_load_from_may_be_a_pattern(tmp_path):
    """The name of the best checkpoint holds its epoch, which a config cannot know."""
    pattern = str(tmp_path / "s4" / "best_M_J_*.pth")
    with pytest.raises(UserError, match=r"load_from: .*/s4/best_M_J_\*\.pth: no such checkpoint$"):
        set_load_from(Config({"load_from": pattern}))
    (tmp_path / "s4").mkdir()
    best = tmp_path / "s4" / "best_M_J_epoch_9.pth"
    for path in (best, tmp_path / "s4" / "epoch_10.pth", tmp_path / "x[1]*.pth"):
        path.touch()
    for name, found in ((pattern, best), (str(best), best), (f"{tmp_path}/x[1]*.pth", tmp_path / "x[1]*.pth")):
        cfg = Config({"load_from": name})
        set_load_from(cfg)
        assert cfg.load_from == str(found)
    best.with_name("best_M_J_epoch_12.pth").touch()
    with pytest.raises(UserError, match=r"load_from: .*: expected one checkpoint, found .*_12\.pth, .*_9\.pth"):
        set_load_from(Config({"load_from": pattern}))
    for name in (None, "https://example.org/*.pth"):
        cfg = Config({"load_from": name})
        set_load_from(cfg)
        assert cfg.load_from == name
    with pytest.raises(UserError, match=r"load_from: gone\.pth: no such checkpoint"):
        set_load_from(Config({"load_from": "gone.pth"}))
