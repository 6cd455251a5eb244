"""The models that come with the package: found by name, verified, and written by tools/ship_model.py."""

import json
import subprocess
import sys

import pytest
import torch

from avsmamba.checkpoint.reading import read_file
from avsmamba.config.load import load_config, parse_options
from avsmamba.config.yaml_io import dump
from avsmamba.model_zoo import bundled
from avsmamba.model_zoo.bundled import find_model, sha256, shipped_models
from avsmamba.model_zoo.publish import MOST_BYTES, read_scores, ship_model
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests import ROOT
from tests.small_model import CONFIG, SMALL, write_checkpoint

ABOUT = "Knows nothing: random weights."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Write a small config with a base, and the files of its training, with random weights."""
    folder = tmp_path_factory.mktemp("trained")
    write_checkpoint(folder / "plain.pth")
    weights = read_file(folder / "plain.pth")["state_dict"]
    meta = {"iter": 7, "time": "20260102_030405", "cfg": "x" * 1000, "dataset_meta": {"classes": ("sounding",)}}
    torch.save({"meta": meta, "state_dict": weights, "optimizer": {"big": torch.zeros(500_000)}}, folder / "iter_7.pth")
    (folder / "env.json").write_text(json.dumps({"command": "python tools/train.py X", "commit": "abc", "seed": 3}))
    (folder / "metrics.json").write_text(
        json.dumps({"audio": "real", "clips": 2, "frames": 10, "frame": {"M_J": 0.123456, "M_F": 0.2}})
    )
    small = load_config(CONFIG, parse_options(SMALL)).to_dict()
    small = {key: value for key, value in small.items() if key != "default_scope"}
    (folder / "small_base.yaml").write_text(dump(small))
    (folder / "small.yaml").write_text("_base_: small_base.yaml\ntrain_cfg: {max_iters: 7, val_interval: 7}\n")
    return folder


def ship(trained, out, **change):
    arguments = {
        "config": trained / "small.yaml",
        "checkpoint": trained / "iter_7.pth",
        "name": "toy",
        "scores": [f"a test set={trained / 'metrics.json'}"],
        "about": ABOUT,
        "commands": ["make the data"],
        "out": out,
        **change,
    }
    return ship_model(**arguments)


def logits(config, checkpoint):
    torch.manual_seed(1)
    model = MODELS.build(load_config(config).model).eval()
    model.load_state_dict(read_file(checkpoint)["state_dict"])
    with torch.no_grad():
        return model(torch.rand(1, 2, 3, 32, 32), torch.rand(1, 2, 1, 96, 64))


def test_what_is_shipped_is_found_and_is_the_same_model(trained, tmp_path):
    folder = ship(trained, tmp_path)
    assert {p.name for p in folder.iterdir()} == {"toy.yaml", "toy.pth", "card.json", "README.md"}
    config, checkpoint = find_model("toy", tmp_path)
    assert load_config(config).to_dict() == load_config(trained / "small.yaml").to_dict()
    assert "_base_" not in config.read_text()
    assert torch.equal(logits(config, checkpoint), logits(trained / "small.yaml", trained / "iter_7.pth"))
    content = read_file(checkpoint)
    assert set(content) == {"state_dict", "meta"} and content["meta"] == {"dataset_meta": {"classes": ["sounding"]}}
    assert checkpoint.stat().st_size < (trained / "iter_7.pth").stat().st_size / 3
    (model,) = shipped_models(tmp_path)
    training, (score,) = model.card["training"], model.card["scores"]
    assert (model.name, model.card["about"], model.card["dtype"]) == ("toy", ABOUT, "float32")
    assert [training[key] for key in ("iterations", "date", "seed", "commit")] == [7, "2026-01-02", 3, "abc"]
    assert training["before"] == ["make the data"] and training["command"] == "python tools/train.py X"
    assert (score["of"], score["sound"], score["M_J"], score["clips"]) == ("a test set", "real", 0.1235, 2)
    text = (folder / "README.md").read_text()
    assert ABOUT in text and "0.1235" in text and sha256(checkpoint) in text and "python tools/train.py X" in text


def test_half_precision_is_half_as_large_and_near(trained, tmp_path):
    ship(trained, tmp_path)
    first = find_model("toy", tmp_path)
    whole, size = logits(*first), first[1].stat().st_size
    ship(trained, tmp_path, dtype="float16")  # takes the place of what was there
    config, checkpoint = find_model("toy", tmp_path)
    assert torch.allclose(logits(config, checkpoint), whole, atol=0.05) and checkpoint.stat().st_size < 0.75 * size
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_a_changed_or_missing_file_and_an_unknown_name_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "SOURCE", tmp_path)
    monkeypatch.chdir(tmp_path)
    folder = ship(trained, tmp_path / "models")
    with pytest.raises(UserError, match=r"'nope': there is no such model; there are: toy$"):
        find_model("nope", tmp_path / "models")
    with pytest.raises(UserError, match=r"'demo': there is no such model; .*make demo"):
        find_model("demo", tmp_path / "models")
    with pytest.raises(UserError, match="there are: none"):
        find_model("toy", tmp_path / "empty")
    with open(folder / "toy.pth", "r+b") as file:
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match=r"toy\.pth: is not the file that was shipped: SHA-256"):
        find_model("toy", tmp_path / "models")
    (folder / "toy.pth").unlink()
    with pytest.raises(UserError, match=r"toy\.pth: is missing"):
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


@pytest.mark.parametrize(
    "change, match",
    [
        ({"name": "Toy/.."}, "--name: expected"),
        ({"name": "demo"}, "--name: expected"),
        ({"dtype": "int8"}, "--dtype: expected"),
        ({"config": CONFIG}, "does not fit"),
        ({"checkpoint": "none.pth"}, "no such checkpoint"),
        ({"scores": ["none.json"]}, "none.json"),
    ],
)
def test_malformed(trained, tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        ship(trained, tmp_path / "out", **change)
    assert not list(tmp_path.rglob("*.pth"))


def test_weights_that_are_too_large_or_not_numbers_are_refused(trained, tmp_path, monkeypatch):
    content = read_file(trained / "iter_7.pth")
    name = next(k for k, v in content["state_dict"].items() if v.is_floating_point())
    content["state_dict"][name] = content["state_dict"][name] * float("nan")
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="not finite"):
        ship(trained, tmp_path / "out", checkpoint=tmp_path / "nan.pth")
    monkeypatch.setattr("avsmamba.model_zoo.publish.MOST_BYTES", 1000)
    with pytest.raises(UserError, match="less than 10 MB"):
        ship(trained, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_scores_of_all_sounds(tmp_path):
    row = {"own": {"frame": {"M_J": 0.5, "M_F": 0.6}}, "marked": {"frames": 0.25}}
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "env.json").write_text('{"command": "test it"}')
    path = tmp_path / "robustness.json"
    path.write_text(json.dumps({"clips": 3, "frames": 15, "sounds": {"real": row, "swap": row}}))
    real, swap = read_scores(str(path))
    assert real == {**swap, "sound": "real", "command": "test it"} and real["of"] == tmp_path.name
    assert (swap["sound"], swap["M_J"], swap["marked_frames"], swap["clips"]) == ("swap", 0.5, 0.25, 3)
    path.write_text('{"clips": 3}')
    with pytest.raises(UserError, match=r"robustness\.json: expected metrics"):
        read_scores(str(path))


def test_the_tool(trained, tmp_path):
    command = [sys.executable, "tools/ship_model.py", str(trained / "small.yaml"), str(trained / "iter_7.pth")]
    command += ["--name", "toy", "--about", ABOUT, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("\n") == 4, done.stderr
    assert find_model("toy", tmp_path)[1] == tmp_path / "toy" / "toy.pth"


@pytest.mark.parametrize("model", shipped_models(), ids=lambda model: model.name)
def test_each_model_of_the_package_is_whole_and_small(model):
    config, checkpoint = find_model(model.name)
    assert checkpoint.stat().st_size < MOST_BYTES and model.card["about"] and model.card["training"]["before"]
    assert any(row["sound"] == "real" and 0 < row["M_J"] <= 1 for row in model.card["scores"])
    net = MODELS.build(load_config(config).model)
    net.load_state_dict(read_file(checkpoint)["state_dict"])
    assert sum(p.numel() for p in net.parameters()) == model.card["parameters"]
