"""A table of configs: `FILE#BASE_VARIANT` wherever a config is named."""

import pytest

from avsmamba.config.load import load_config
from avsmamba.config.variants import config_name, split_name
from avsmamba.engine.train import train
from tests import ROOT
from tests.config.test_load import fails
from tests.engine.standins import config

ABLATIONS = ROOT / "configs/ablations.yaml"


def table(tmp_path, text="    config: {model: {norm: false}}\n"):
    path = config(tmp_path)
    file = tmp_path / "table.yaml"
    file.write_text(
        f"bases:\n  small: {{about: small, config: {{_base_: {path.name}}}}}\n"
        f"variants:\n  full:\n    about: all\n  plain:\n    about: no norm\n{text}"
    )
    return file


def test_names():
    assert split_name("a/b.yaml#c_d")[1] == config_name("a/b.yaml#c_d") == "c_d"
    assert split_name("a#b/c.yaml")[1] == "" and config_name("a#b/c.yaml") == "c"
    assert config_name("a/b.yaml#c_d") == "c_d"


def test_a_variant_is_a_config(tmp_path):
    file = table(tmp_path)
    whole, plain = load_config(f"{file}#small_full"), load_config(f"{file}#small_plain")
    assert plain.model.norm is False and whole.model.get("norm") is not False
    assert plain.filename == f"{file}#small_plain"
    child = tmp_path / "child.yaml"
    child.write_text("_base_: table.yaml#small_plain\nmodel: {embed_dims: 4}\n")
    assert load_config(child).model.norm is False and load_config(child).model.embed_dims == 4


def test_a_variant_trains_and_its_saved_config_too(tmp_path):
    file = table(tmp_path)
    train(f"{file}#small_plain", str(tmp_path / "w"))
    saved = tmp_path / "w" / "small_plain.yaml"
    assert load_config(saved).model.norm is False
    train(saved, str(tmp_path / "again"))


@pytest.mark.parametrize(
    "name, words",
    [
        ("", ["table.yaml: holds variants", "table.yaml#NAME", "{small}_{full,plain}"]),
        ("#", ["table.yaml: holds variants"]),
        (
            "#small_plane",
            ["table.yaml#small_plane: no such variant; did you mean 'small_plain'", "{small}_{full,plain}"],
        ),
        ("#plain", ["no such variant"]),
    ],
)
def test_unknown_names(tmp_path, name, words):
    fails(words, load_config, f"{table(tmp_path)}{name}")


def test_a_file_without_variants(tmp_path):
    path = config(tmp_path)
    fails(f"{path}#x: {path} holds no variants", load_config, f"{path}#x")
    fails("no such file", load_config, tmp_path / "none.yaml#x")
    (tmp_path / "child.yaml").write_text("_base_: none.yaml#x\n")
    fails(["child.yaml: _base_: no such file", "none.yaml#x"], load_config, tmp_path / "child.yaml")


@pytest.mark.parametrize(
    "text, words",
    [
        ("    confg: {}\n", ["table.yaml: variants.plain.confg: it takes no 'confg'; did you mean 'config'?"]),
        ("    config: []\n", ["variants.plain.config: expected a mapping, got []"]),
        ("  other: {}\n", ["variants.other: needs 'about'"]),
        ("  other: 3\n", ["variants.other: expected a mapping, got 3"]),
        ("tables: {I: {titel: x, rows: {}}}\n", ["tables.I.titel: it takes no 'titel'"]),
        ("more: 3\n", ["more: it takes no 'more'"]),
        ("    config: {model: {norm: 3}}\n", ["table.yaml#small_plain: model.norm: expected true or false, got 3"]),
        ("    config: {model: 3}\n", ["table.yaml#small_plain: model is 3 here but a mapping in its base"]),
    ],
)
def test_faulty_tables(tmp_path, text, words):
    fails(words, load_config, f"{table(tmp_path, text)}#small_plain")


def test_the_table_of_ablations_lists_its_names():
    fails(["ablations.yaml: holds variants", "{tiny,ms3,s4}_{full,without_mte,", "orders_12}"], load_config, ABLATIONS)
