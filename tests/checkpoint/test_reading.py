"""Pretrained files: what is read, what is refused, and that nothing is half loaded."""

import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from avsmamba.checkpoint.reading import load_checkpoint_file, load_into
from avsmamba.utils import UserError

pytest_plugins = ["tests.models.log_lines"]

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[k], v) for k, v in expected.items())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state", "module"])
@pytest.mark.parametrize("parallel", [False, True])
def test_state_dict_is_found(tmp_path, wrapper, parallel):
    state = {f"module.{k}": v for k, v in WEIGHTS.items()} if parallel else WEIGHTS
    content = {"epoch": 3, "args": argparse.Namespace(lr=0.1), wrapper: state} if wrapper else state
    torch.save(content, tmp_path / "w.pth")
    assert same(load_checkpoint_file(tmp_path / "w.pth"), WEIGHTS)


def test_state_dict_inside_two_wrappers(tmp_path):
    torch.save({"model": {"state_dict": WEIGHTS}}, tmp_path / "w.pth")
    assert same(load_checkpoint_file(tmp_path / "w.pth"), WEIGHTS)


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert same(load_checkpoint_file(tmp_path / "w.safetensors"), WEIGHTS)


def test_strip_takes_the_first_prefix_found_and_names_the_rest(tmp_path, log_lines):
    torch.save({"backbone.body.x": torch.ones(1), "backbone.fpn.y": torch.ones(2)}, tmp_path / "w.pth")
    state = load_checkpoint_file(tmp_path / "w.pth", strip=("backbone.body.", "backbone."))
    assert list(state) == ["x"]
    assert log_lines[-1].endswith("w.pth: not under 'backbone.body.', not used: backbone.fpn.y")
    assert list(load_checkpoint_file(tmp_path / "w.pth", strip=("net.", "backbone."))) == ["body.x", "fpn.y"]
    assert list(load_checkpoint_file(tmp_path / "w.pth", strip=("net.",))) == ["backbone.body.x", "backbone.fpn.y"]


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_holds_code_is_refused_and_not_executed(tmp_path, zipped):
    trace = tmp_path / "executed"
    torch.save({"state_dict": WEIGHTS, "x": Payload(trace)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"w\.pth: holds more than weights; nothing was executed") as caught:
        load_checkpoint_file(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(UserError, match=r"p\.pkl"):
        load_checkpoint_file(tmp_path / "p.pkl")
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_a_file_cut_short_is_named(tmp_path, suffix, share):
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"a": torch.randn(100, 100)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"w\{suffix}: cut short, damaged, or not a checkpoint"):
        load_checkpoint_file(path)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint file"):
        load_checkpoint_file(tmp_path / "none.pth")
    with pytest.raises(UserError, match="expected a local file"):
        load_checkpoint_file("https://example.org/w.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(UserError, match=r"page\.pth: cut short, damaged, or not a checkpoint"):
        load_checkpoint_file(tmp_path / "page.pth")
    for content, said in (([1, 2], "found a list"), ({"epoch": 3}, "found a dict with epoch"), ({}, "an empty dict")):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match=rf"w\.pth: expected tensors by name .*{said}"):
            load_checkpoint_file(tmp_path / "w.pth")


@pytest.fixture
def module():
    return nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Linear(3, 2))


def random_state(module):
    return {k: torch.randn_like(v) if v.is_floating_point() else v + 7 for k, v in module.state_dict().items()}


def test_load_into_fills_every_tensor_in_place(module):
    parameters = list(module.parameters())
    state = random_state(module)
    load_into(module, state, file="w.pth")
    assert same(module.state_dict(), state)
    assert all(p is q for p, q in zip(parameters, module.parameters(), strict=True))


def test_load_into_casts_to_the_module_dtype(module):
    state = {k: v.half() if v.is_floating_point() else v for k, v in random_state(module).items()}
    load_into(module, state, file="w.pth")
    assert module[0].weight.dtype == torch.float32
    torch.testing.assert_close(module[0].weight, state["0.weight"].float(), rtol=0, atol=0)


def test_only_the_batch_counter_may_be_missing(module):
    state = random_state(module)
    del state["1.num_batches_tracked"]
    load_into(module, state, file="w.pth")
    del state["1.running_mean"]
    with pytest.raises(UserError, match=r"w\.pth: .*1 missing \(1\.running_mean\)"):
        load_into(module, state, file="w.pth")


def test_errors_name_keys_and_shapes_and_leave_the_module_as_it_was(module):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = random_state(module) | {"0.weight": torch.ones(5, 2, 1, 1), "odd": torch.ones(1)}
    del state["2.bias"]
    with pytest.raises(UserError) as caught:
        load_into(module, state, file="w.pth")
    text = str(caught.value)
    assert "\n" not in text
    for part in ("w.pth", "Sequential", "2.bias", "odd", "0.weight is (5, 2, 1, 1), the model's (3, 2, 1, 1)"):
        assert part in text
    assert same(module.state_dict(), before)
    with pytest.raises(UserError, match=r"9 in all"):
        load_into(module, {f"x{i}": torch.ones(1) for i in range(9)}, file="w.pth")
