"""The models that come with the package: found by name and verified."""

import pytest

from avsmamba.checkpoint.reading import read_file
from avsmamba.config.load import load_config
from avsmamba.model_zoo import bundled
from avsmamba.model_zoo.bundled import find_model, shipped_models
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests import ROOT
from tests.small_model import CONFIG

MOST_BYTES = 10_000_000


def test_a_changed_or_missing_file_and_an_unknown_name_are_refused(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "SOURCE", tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = publish(tmp_path / "models" / "toy")
    assert find_model("toy", tmp_path / "models") == (folder / "config.yaml", folder / "model.safetensors")
    with pytest.raises(UserError, match=r"'nope': there is no such model; there are: toy$"):
        find_model("nope", tmp_path / "models")
    with pytest.raises(UserError, match=r"'demo': there is no such model; .*make demo"):
        find_model("demo", tmp_path / "models")
    with pytest.raises(UserError, match="there are: none"):
        find_model("toy", tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: is missing"):
        find_model("toy", tmp_path / "models")
    (folder / "card.json").write_text('{"name": "toy"}')
    with pytest.raises(UserError, match=r"card\.json: not a model.s card"):
        shipped_models(tmp_path / "models")


def test_the_demo_is_found_where_make_demo_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "SOURCE", tmp_path / "elsewhere")
    folder = tmp_path / "work_dirs" / "demo"
    folder.mkdir(parents=True)
    for number in (200, 1000, 800):
        (folder / f"best_M_J_iter_{number}.pth").touch()
    with pytest.raises(UserError, match="no such model"):  # a checkpoint without its config is of no use
        find_model("demo", tmp_path)
    config = tmp_path / bundled.DEMO_CONFIG
    config.parent.mkdir(parents=True)
    config.touch()
    assert find_model("demo", tmp_path) == (config, folder / "best_M_J_iter_1000.pth")
    assert CONFIG == ROOT / bundled.DEMO_CONFIG and "DEMO := work_dirs/demo\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("model", shipped_models(), ids=lambda model: model.name)
def test_each_model_of_the_package_is_whole_and_small(model):
    config, checkpoint = find_model(model.name)
    assert model.name == config.parent.name != bundled.DEMO and model.card["license"] == "apache-2.0"
    assert checkpoint.stat().st_size < MOST_BYTES and model.card["about"] and model.card["training"]["before"]
    assert any(row["sound"] == "real" and 0 < row["M_J"] <= 1 for row in model.card["scores"])
    net = MODELS.build(load_config(config).model)
    net.load_state_dict(read_file(checkpoint)["state_dict"])
    assert sum(p.numel() for p in net.parameters()) == model.card["parameters"]
