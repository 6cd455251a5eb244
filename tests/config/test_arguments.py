# ruff: noqa: UP006, UP007, UP035, UP045
"""Values of a config against the types and limits of the arguments: one line that names the key."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from avsmamba.config.arguments import Argument, arguments, fits, mismatch, shown
from avsmamba.config.check import check_config
from avsmamba.config.load import flat_values, load_config
from avsmamba.limits import AT_LEAST_1
from avsmamba.utils import UserError
from tests import ROOT
from tests.config.test_load import fails
from tests.engine.standins import config

SHAPES = ROOT / "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml"
TPAVI = ROOT / "configs/baselines/tpavi_tiny_ms3_shapes.yaml"
AVSEGFORMER = ROOT / "configs/baselines/avsegformer_tiny_ms3_shapes.yaml"

FAULTS = [
    ("model.encoder.num_layers", -1, "expected at least 1, got -1"),
    ("model.encoder.num_layers", "two", "expected an integer, got 'two'"),
    ("model.embed_dims", 0, "expected at least 1, got 0"),
    ("optim_wrapper.optimizer.lr", "fast", "expected a number, got 'fast'"),
    ("train_cfg.max_iters", "many", "expected an integer, got 'many'"),
    ("model.head", None, "is needed, expected a mapping, got null"),
    # The six end here.
    *((f"model.{p}", None, "is needed, expected a mapping") for p in ("backbone", "audio_encoder", "projection")),
    ("model.losses", None, "is needed, expected a list of mappings, got null"),
    ("model.losses", [], "expected at least one loss"),
    ("model.losses", {"type": "DiceLoss"}, "is a mapping here but a list in its base"),
    ("model.encoder", "two", "is 'two' here but a mapping in its base"),
    ("model.encoder.num_layers", True, "expected an integer, got true"),
    ("model.encoder.num_layers", 2.0, "expected an integer, got 2.0"),
    ("model.encoder.num_layers", "2", "expected an integer, got '2'"),
    ("model.encoder.num_layers", None, "expected an integer, got null"),
    ("model.encoder.mix_ffn", 1, "expected true or false, got 1"),
    ("model.encoder.drop_path", 1, "expected at least 0 and below 1, got 1"),
    ("model.encoder.drop_path", math.nan, "expected at least 0 and below 1, got nan"),
    ("model.encoder.orders", 3, "expected one of [2, 4, 6, 8, 10, 12], got 3"),
    ("model.encoder.scales", [2, 5], "expected of the maps 1 to 4, got [2, 5]"),
    ("model.encoder.scales", 2, "expected a list of integers, got 2"),
    ("model.encoder.dt_rank", 1.5, "expected an integer or text, got 1.5"),
    ("model.decoder.d_state", 0, "expected at least 1, got 0"),
    ("model.decoder.expand", "wide", "expected a number, got 'wide'"),
    ("model.pyramid.mask_kernel", [3], "expected an integer, got [3]"),
    ("model.pyramid", {"_delete_": True}, ": needs a 'type'"),
    ("model.head.num_classes", 0, "expected at least 1, got 0"),
    ("model.losses.0.loss_weight", "1e-1x", "expected a number, got '1e-1x'"),
    ("model.aux_losses.0.loss_weight", -1, "expected at least 0, got -1"),
    ("model.data_preprocessor.size_divisor", 0, "expected at least 1, got 0"),
    ("train_cfg.max_iters", 0, "expected at least 1, got 0"),
    ("train_cfg.val_interval", 0, "expected at least 1, got 0"),
    ("train_cfg.by_epoch", "no", "expected true or false, got 'no'"),
    ("train_dataloader.batch_size", 0, "expected at least 1, got 0"),
    ("train_dataloader.batch_size", None, "expected an integer, got null"),
    ("train_dataloader.num_workers", -1, "expected at least 0, got -1"),
    ("train_dataloader.sampler", [], "expected a mapping with a type, got []"),
    ("train_dataloader.dataset.pipeline.1.prob", 2, "expected 0 to 1, got 2"),
    ("train_dataloader.dataset.pipeline.0.size", "big", "expected an integer or a list of integers, got 'big'"),
    ("optim_wrapper.optimizer.lr", -1, "expected at least 0, got -1"),
    ("optim_wrapper.optimizer.lr", {"a": 1}, "is a mapping here but a float in its base"),
    ("optim_wrapper.optimizer.betas", [0.9, "x"], "expected a number, got 'x'"),
    ("optim_wrapper.optimizer.betas", [0.9], "expected a list of 2 numbers, got [0.9]"),
    ("optim_wrapper.optimizer", None, "is needed"),
    ("optim_wrapper.clip_grad.max_norm", 0, "expected a number above 0, got 0"),
    ("optim_wrapper.clip_grad.type", "both", "expected 'norm' or 'value', got 'both'"),
    ("optim_wrapper.paramwise_cfg", {"norm_decay_mult": "no"}, "norm_decay_mult: expected a number, got 'no'"),
    ("optim_wrapper.paramwise_cfg", {"custom_keys": {"head": {"lr_mlt": 1}}}, "did you mean 'lr_mult'?"),
    ("optim_wrapper.paramwise_cfg", {"custom_keys": {"head": {"lr_mult": "x"}}}, "head.lr_mult: expected a number"),
    ("param_scheduler.0.begin", -1, "expected at least 0, got -1"),
    ("param_scheduler.1.power", "cubic", "expected a number, got 'cubic'"),
    ("default_hooks.logger.interval", 0.5, "expected an integer, got 0.5"),
    ("default_hooks.checkpoint.save_best", 5, "expected text, a list of texts or null, got 5"),
    ("default_hooks.short_history.length", 0, "expected at least 1, got 0"),
    ("default_hooks", None, "is needed"),
    ("custom_hooks", [{"type": "EMAHook", "momentum": 2.5}], "0.momentum: expected a number between 0 and 1, got 2.5"),
    ("custom_hooks", {"type": "EMAHook"}, "expected a list of mappings or null"),
    ("visualizer.vis_backends", [[]], "0: expected a mapping with a type, got []"),
    ("log_processor.window_size", 0, "expected at least 1, got 0"),
    ("env_cfg.mp_cfg.mp_start_method", "two", "expected 'fork', 'spawn' or 'forkserver', got 'two'"),
    ("randomness.seed", -1, "expected 0 to 2**32 - 1, got -1"),
    ("randomness", None, "is needed"),
    ("log_level", "LOUD", "'ERROR' or 'CRITICAL', got 'LOUD'"),
    ("resume", "yes please", "expected true or false, got 'yes please'"),
    ("work_dir", 5, "expected text, got 5"),
]


@pytest.mark.parametrize("key, value, words", FAULTS)
def test_one_line_names_the_key(key, value, words):
    text = fails([f": {key}", words], load_config, SHAPES, {key: value})
    assert text.startswith((f"{SHAPES} with --cfg-options: ", "--cfg-options"))


@pytest.mark.parametrize(
    "path, key, value, words",
    [
        (TPAVI, "model.pyramid.stages", [0], "expected of the maps 1 to 4, got [0]"),
        (TPAVI, "model.projection.dilations", [], None),
        (TPAVI, "model.projection.dilations", "x", "expected a list of integers, got 'x'"),
        (AVSEGFORMER, "model.decoder.num_queries", 0, "expected at least 1, got 0"),
        (AVSEGFORMER, "model.encoder.num_heads", 0, "expected at least 1, got 0"),
        (AVSEGFORMER, "model.matching_losses", 5, "expected a list of mappings or null, got 5"),
    ],
)
def test_other_methods(path, key, value, words):
    if words is None:
        load_config(path, {key: value})
    else:
        fails([f"{key}: ", words], load_config, path, {key: value})


def test_a_file_is_named_without_options(tmp_path):
    path = config(tmp_path, train_cfg={"by_epoch": True, "max_epochs": 0})
    assert fails("got 0", load_config, path) == f"{path}: train_cfg.max_epochs: expected at least 1, got 0"


@pytest.mark.parametrize(
    "key, value",
    [
        ("optim_wrapper.optimizer.lr", 1),  # an integer is a number
        ("optim_wrapper.optimizer.lr", 0),
        ("model.encoder.dt_rank", 4),
        ("model.encoder", None),
        ("train_dataloader.num_workers", 0),
        ("train_dataloader.dataset.pipeline.0.size", [96, 96]),
        ("default_hooks.checkpoint.save_best", ["M_J", "M_F"]),
        ("default_hooks.checkpoint.max_keep_ckpts", -1),
        ("optim_wrapper.clip_grad", {"_delete_": True, "type": "value", "clip_value": 0.5}),
        ("optim_wrapper.paramwise_cfg", {"custom_keys": {"backbone": {"lr_mult": 0, "decay_mult": 1.0}}}),
        ("custom_hooks", [{"type": "EMAHook", "momentum": 0.1, "interval": 2}]),
        ("randomness.seed", None),
        ("work_dir", None),
    ],
)
def test_good_values_pass(key, value):
    load_config(SHAPES, {key: value})


class Thing: ...


@pytest.mark.parametrize(
    "value, hint, fault",
    [
        (1, int, None),
        (True, int, "expected an integer, got true"),
        (1, float, None),
        (True, float, "expected a number, got true"),
        ("1e-3", float, "expected a number, got '1e-3'"),
        (None, Optional[int], None),
        (None, int | None, None),
        ("x", int | None, "expected an integer or null, got 'x'"),
        ([1, 2], Sequence[int], None),
        ((1, 2), List[int], None),
        ([1, "x"], Sequence[int], ".1: expected an integer, got 'x'"),
        ("ab", Sequence[str], "expected a list of texts, got 'ab'"),
        ([1, 2, 3], Tuple[int, int], "expected a list of 2 integers, got [1, 2, 3]"),
        ([1, 2, 3], tuple[int, ...], None),
        ([[1, 2], [3]], List[Tuple[int, int]], ".1: expected a list of 2 integers, got [3]"),
        (5, list, "expected a list, got 5"),
        ({}, Dict[str, int], None),
        ([], Mapping[str, int], "expected a mapping, got []"),
        ("a", Literal["a", 1], None),
        (True, Literal["a", 1], "expected 'a' or 1, got true"),
        ("a", str | Path, None),
        ("a", Path, None),
        (5, Path, "expected a path, got 5"),
        (5, Any, None),
        (5, Callable, None),
        (5, Optional[Callable], None),
        (5, Thing, None),
        ("fast", float | Tensor, "expected a number, got 'fast'"),
        ({"type": "X"}, Union[Thing, int], None),
        ({"a": 1}, Union[Thing, int], "expected an integer, got {'a': 1}"),
        ([{"type": "X"}], Optional[List[Union[Thing, dict]]], None),
        ([5], Iterable[Tensor] | dict, None),
    ],
)
def test_types(value, hint, fault):
    found = mismatch(value, hint, "key")
    if fault is None:
        assert found is None and fits(value, hint)
    else:
        assert found == ("key" + fault if fault.startswith(".") else f"key: {fault}")


def test_signatures_of_torch_are_read():
    known, required, _ = arguments(torch.optim.AdamW)
    assert required == {"params"}
    assert known["lr"].fault("fast", "lr") == "lr: expected a number, got 'fast'"
    loader = arguments(DataLoader)[0]  # hints are strings, some of which only a type checker knows
    assert loader["num_workers"].hint is int
    assert loader["collate_fn"].fault({"x": 1}, "k") is None
    assert arguments(nn.Linear)[0]["in_features"].hint is int


def test_defaults_stand_in_for_hints():
    def function(a=1, b=True, c="x", d=None, e=(1, 2), f: int = None): ...  # noqa: RUF013

    known = arguments(function)[0]
    good = {"a": 2.5, "b": False, "c": "y", "d": "any", "e": [3], "f": None}
    assert all(known[k].fault(v, k) is None for k, v in good.items())
    bad = {"a": "x", "b": 1, "c": 5, "f": "x"}
    assert all(known[k].fault(v, k) for k, v in bad.items())


def test_long_values_are_cut():
    assert shown(None) == "null" and shown(True) == "true" and shown("None") == "'None'"
    assert len(shown(list(range(1000)))) == 80
    assert Argument(int, limit=AT_LEAST_1).fault("a\nb", "k") == r"k: expected an integer, got 'a\nb'"


def _places(value, place=()):
    if place:
        yield place
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*place, key))


VALUES = flat_values(SHAPES)
PLACES = sorted(_places(VALUES), key=str)
scalars = st.none() | st.booleans() | st.integers(-2, 9) | st.floats(-2, 2) | st.sampled_from(["two", "", "a\nb"])
anything = st.recursive(scalars, lambda t: st.lists(t, max_size=2) | st.dictionaries(st.just("type"), t), max_leaves=3)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PLACES), anything)
def test_any_value_anywhere_is_one_line_or_fine(place, value):
    values = copy.deepcopy(VALUES)
    node = values
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    try:
        check_config(values)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).partition(": ")[0].split(".")[0] == place[0] or str(place[0]) in str(error)
