"""The table of accidents: each row is its method's small model under the comparison's budget, but for its options."""

import json

import pytest

from avsmamba.config.load import load_config
from avsmamba.config.variants import Variants
from avsmamba.config.yaml_io import read
from tests import ROOT
from tests.models.test_segmentor import build

TABLE = ROOT / "configs/accidents.yaml"
NAMES = Variants(TABLE, read(TABLE)).names()
ACCIDENTS = [n for n in NAMES if n.count("_") > 1]
METHODS = [n.removeprefix("tiny_") for n in NAMES if n not in ACCIDENTS]


def flat(value, path=""):
    """Return the leaves of nested mappings and lists by dotted path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {k: v for key, item in items for k, v in flat(item, f"{path}.{key}".lstrip(".")).items()}


def changed(name, other):
    """Return the keys whose values differ between two configs."""
    one, two = flat(load_config(name).to_dict()), flat(load_config(other).to_dict())
    return {k for k in one | two if one.get(k) != two.get(k)}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_that_of_the_comparison(method):
    table, twin = f"{TABLE}#tiny_{method}", f"{ROOT}/configs/baselines/{method}_tiny_ms3_comparison.yaml"
    assert changed(table, twin) <= {"optim_wrapper.optimizer.lr", "test_dataloader.batch_size"}
    runs = json.loads((ROOT / f"docs/comparison_runs/{method}.json").read_text())["runs"]
    assert {r["lr"] for r in runs if not r["trial"]} == {load_config(table).optim_wrapper.optimizer.lr}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_an_accident_changes_options_of_the_model_alone(name):
    method = f"{TABLE}#{name.rsplit('_', 1)[0]}"
    keys = changed(f"{TABLE}#{name}", method)
    assert keys and all(k.startswith("model.") for k in keys)
    assert len(keys) == 1 or name == "tiny_selm_released"
    one, two = (sum(p.numel() for p in build(config=c).parameters()) for c in (f"{TABLE}#{name}", method))
    assert one == two
