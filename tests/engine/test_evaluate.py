"""A test of a checkpoint: what it prints first, what metrics.json holds of each convention, and validation without."""

import json

import pytest

from avsmamba.config.load import load_config
from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.runner import fill_from_train_loop
from avsmamba.utils import UserError
from tests.small_model import AVSS, CONFIG, SMALL


def run(shapes, checkpoint, folder, *options):
    return evaluate(CONFIG, checkpoint, str(folder), options=[*SMALL, *options], data_root=str(shapes))


def test_the_method_s_own_convention_comes_first(shapes, checkpoint, tmp_path, capsys):
    metrics = run(shapes, checkpoint, tmp_path / "a")
    out = capsys.readouterr().out
    (row,) = [i for i, line in enumerate(out.splitlines()) if line.startswith("protocol")]
    first = out.splitlines()[row + 1].split()
    chosen = metrics["convention"]
    assert first == ["avs_mamba", "(batch_1/512_soft)", f"{chosen['M_J']:.4f}", f"{chosen['M_F']:.4f}"]
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == metrics
    (line,) = [line for line in out.splitlines() if " test M_J " in line]
    assert "convention/avs_mamba/M_J" in line and "conventions/" not in line
    other = run(shapes, checkpoint, tmp_path / "b", "test_evaluator.convention=avsegformer")
    assert other["convention"] == {"name": "avsegformer", "key": "batch_2/224", **other["conventions"]["batch_2/224"]}
    assert {k: v for k, v in other.items() if k != "convention"} == {
        k: v for k, v in metrics.items() if k != "convention"
    }
    with pytest.raises(
        UserError, match="test_evaluator or test_cfg: convention: expected one of avs_mamba, .*'theirs'"
    ):
        run(shapes, checkpoint, tmp_path / "c", "test_evaluator.convention=theirs")


@pytest.mark.parametrize("path", [CONFIG, AVSS])
def test_validation_is_spared_the_conventions_unless_asked(path):
    cfg = load_config(path)
    fill_from_train_loop(cfg)
    assert cfg.val_evaluator.conventions is False and "conventions" not in cfg.test_evaluator
    for evaluator in ([{"type": "AVSMetric"}, {"type": "FalsePositives"}], {"metrics": {"type": "AVSMetric"}}):
        cfg = load_config(CONFIG)
        cfg.val_evaluator = evaluator
        fill_from_train_loop(cfg)
        assert "'conventions': False" in str(cfg.to_dict()["val_evaluator"])
    cfg = load_config(path, {"val_evaluator.conventions": True})
    fill_from_train_loop(cfg)
    assert cfg.val_evaluator.conventions is True
