"""Names of models: which of config, shipped model, folder and hub each of them is."""

from pathlib import Path

import pytest

import avsmamba
from avsmamba.model_zoo import bundled, hub
from avsmamba.model_zoo.locate import locate_model
from avsmamba.utils import UserError


@pytest.fixture
def downloads(monkeypatch, publish, tmp_path):
    """Record what is asked of the hub, which has one model."""
    asked = []
    folder = publish(tmp_path / "cache" / "on_the_hub")

    def download(repository, revision):
        asked.append((repository, revision))
        return folder

    monkeypatch.setattr(hub, "download", download)
    return asked


def test_a_name_has_one_meaning(publish, tmp_path, monkeypatch, downloads):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "SOURCE", tmp_path / "source")
    for name in ("source/models/toy", "toy", "other", "user/toy"):
        publish(tmp_path / name, about=name)

    def about(model):
        config = locate_model(model).config
        return config.parent.resolve().relative_to(tmp_path).as_posix()

    assert about("toy") == "source/models/toy"  # a shipped name comes before a folder
    assert about("./toy") == about(tmp_path / "toy") == about(str(tmp_path / "toy")) == about(Path("toy")) == "toy"
    assert about("other") == "other" and about("user/toy") == "user/toy"  # a folder comes before the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    assert about("~/toy") == "toy" and downloads == []
    assert about("hf://user/toy") == about("user/of_hub") == about("user/of_hub@v1.0") == "cache/on_the_hub"
    assert downloads == [("user/toy", None), ("user/of_hub", None), ("user/of_hub", "v1.0")]
    assert locate_model("a/b.yaml", "c.pth") == ("b", Path("a/b.yaml"), Path("c.pth"))
    assert locate_model("configs/ablations.yaml#x", "c.pth").name == "x"


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("nope", "'nope': there is no such model; there are: shapes.*; or name a published model's folder, or hf://"),
        ("./nope", r"^nope: no such folder$"),
        ("/tmp/nope/at/all", "^/tmp/nope/at/all: no such folder$"),
        ("a/b/c", "^a/b/c: no such folder, and not a model of the hub"),
        ("hf://toy", "^hf://toy: no such folder, and not a model of the hub"),
        ("a b/c", "not a model of the hub"),
        ("x.yaml", "x.yaml: a config requires a checkpoint"),
        ("configs/ablations.yaml#x", "#x: a config requires a checkpoint"),
        ("empty", r"empty: has no card\.json"),
        ("best.pth", r"best\.pth: is a file"),
    ],
)
def test_errors_name_what_was_expected(model, match, tmp_path, monkeypatch, downloads):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "best.pth").touch()
    with pytest.raises(UserError, match=match):
        avsmamba.load_model(model)
    assert downloads == []
