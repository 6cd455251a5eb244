"""`${name}` in configs: types, options, bases, errors, and what stays out of its reach."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsmamba.config import yaml_io
from avsmamba.config.interpolate import interpolate
from avsmamba.config.load import flat_values, load_config, parse_options
from tests import ROOT
from tests.config.test_load import fails
from tests.engine.standins import config

MS3 = ROOT / "configs/avs_mamba/avs_mamba_pvtv2b5_ms3_512.yaml"

texts = st.text(max_size=8).filter(lambda t: "${" not in t and not t.endswith("$") and t != "???")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(texts, t, max_size=3), max_leaves=8)


@settings(deadline=None)
@given(st.dictionaries(texts, trees, max_size=3))
def test_a_tree_without_references_stays(tree):
    before = copy.deepcopy(tree)
    assert interpolate(tree) == before


@settings(deadline=None)
@given(scalars, st.dictionaries(texts, trees, max_size=3))
def test_a_reference_has_the_value_and_type_of_its_key(value, tree):
    tree = {"others": tree, "name": value, "a": {"b": ["${name}", {"c": "${a.d}"}], "d": 3}}
    before = copy.deepcopy(tree)
    got = interpolate(tree)
    assert tree == before, "the values that were passed are changed"
    assert got["a"]["b"] == [value, {"c": 3}] and type(got["a"]["b"][0]) is type(value)
    assert {k: got[k] for k in ("others", "name")} == {k: tree[k] for k in ("others", "name")}


@settings(deadline=None)
@given(texts.filter(lambda t: t.isalnum()), st.integers())
def test_references_inside_a_text(word, number):
    got = interpolate({"word": word, "number": number, "x": "a_${word}_${number}!"})
    assert got["x"] == f"a_{word}_{number}!"


def test_one_size_for_all(tmp_path, monkeypatch):
    def sizes(cfg):
        loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
        return {t["size"] for loader in loaders for t in loader.dataset.pipeline if "size" in t}

    for words, expected in (
        ([], {512}),
        (["size=224"], {224}),
        (["test_dataloader.dataset.pipeline.0.size=96"], {512, 96}),
    ):
        cfg = load_config(MS3, parse_options(words))
        assert sizes(cfg) == expected and not {"size", "epochs"} & set(cfg)
    saved = tmp_path / "saved.yaml"
    saved.write_text(yaml_io.dump(load_config(MS3, {"size": 224}).to_dict()))
    assert load_config(saved).to_dict() == load_config(MS3, {"size": 224}).to_dict()
    assert "size" not in flat_values(MS3)


def test_a_key_of_a_base_may_be_left_over(tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text(f"_base_: {MS3}\ntrain_cfg: {{max_epochs: 7}}\n")
    cfg = load_config(child)
    assert cfg.train_cfg.max_epochs == 7 and "epochs" not in cfg


@pytest.mark.parametrize(
    "words, message",
    [
        (["size=two"], "train_dataloader.dataset.pipeline.1.size: expected an integer"),
        (["sise=224"], "sise: no such key at the top level of a config; did you mean 'size'?"),
        (["size=[1]"], "${size} refers to a mapping or a list"),
        (["size=${epochs}"], "${size} refers to '${epochs}', which is a reference itself"),
        (["size={_delete_: true}"], "${size} refers to a mapping or a list"),
        (["size.x=3"], "size is 512"),
    ],
)
def test_options_that_are_at_fault(words, message):
    fails(message, lambda: load_config(MS3, parse_options(words)))


def test_a_key_that_nothing_refers_to(tmp_path):
    fails(["epoch.yaml", "width: no such key at the top level"], load_config, config(tmp_path, width=3))
    fails(
        "sizes: no such key",
        load_config,
        config(tmp_path, sizes=[3], work_dir="${experiment_name}", experiment_name="x"),
    )
    cfg = load_config(config(tmp_path, name="x", work_dir="w/${name}", experiment_name="${work_dirs}", work_dirs="y"))
    assert (cfg.work_dir, cfg.experiment_name) == ("w/x", "y") and not {"name", "work_dirs"} & set(cfg)
    cfg = load_config(config(tmp_path, experiment_name="x", work_dir="w/${experiment_name}"))
    assert (cfg.work_dir, cfg.experiment_name) == ("w/x", "x"), "a key that the Runner knows stays"


@pytest.mark.parametrize(
    "text, words",
    [
        ("${widht}", ["${widht} is not defined", "did you mean 'width'?"]),
        ("${model.depth}", ["${model.depth} is not defined"]),
        ("${oc.env:HOME}", ["${oc.env:HOME}", "executes nothing"]),
        ("${oc.decode:x}", ["executes nothing"]),
        ("x${oc.env:HOME,y}", ["executes nothing"]),
        ("${${width}}", ["executes nothing"]),
        ("${.width}", ["executes nothing"]),
        ("${width", ["executes nothing"]),
        ("\\${width}", ["executes nothing"]),
        ("${model}", ["a mapping or a list"]),
        ("${work_dir}", ["which is a reference itself"]),
        ("$${brace}", ["yields '${x}'"]),
    ],
)
def test_references_that_are_at_fault(tmp_path, monkeypatch, text, words):
    monkeypatch.setenv("HOME", "/secret")
    path = config(tmp_path, width=3, brace="{x}", work_dir=text)
    assert "secret" not in fails([f"{path}: work_dir: ", *words], load_config, path)


def test_a_reference_without_quotes_in_a_flow_mapping(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("size: 3\nmodel: {width: ${size}}\n")
    fails([f"{path}, line 2", "quote"], load_config, path)
