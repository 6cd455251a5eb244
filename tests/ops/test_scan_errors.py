"""Errors of the operator name the argument, and the backend that supports what was asked."""

import pytest
import torch

from avsmamba.ops import multi_directional_scan
from tests.ops.conftest import NAMES, scan_inputs


def test_double_backward_says_what_to_do():
    inputs, order = scan_inputs()
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    (g,) = torch.autograd.grad(multi_directional_scan(*inputs, order).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        g.sum().backward()
    (g,) = torch.autograd.grad(
        multi_directional_scan(*inputs, order, backend="torch").square().sum(), inputs[:1], create_graph=True
    )
    g.sum().backward()


def with_(inputs, index, tensor):
    return [*inputs[:index], tensor, *inputs[index + 1 :]]


@pytest.mark.parametrize(("index", "name"), list(enumerate(NAMES)))
def test_wrong_shapes_and_dtypes_are_named(index, name):
    inputs, order = scan_inputs()
    wrong = inputs[index][..., :-1] if name not in ("dt", "B") else inputs[index][:, :-1]
    with pytest.raises(ValueError, match=r"^(?!order)\w+: expected"):
        multi_directional_scan(*with_(inputs, index, wrong), order)
    if name not in ("x", "dt", "B"):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            multi_directional_scan(*with_(inputs, index, wrong), order)
    if name != "x":
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            multi_directional_scan(*with_(inputs, index, inputs[index].double()), order)
    with pytest.raises(ValueError, match=r": expected"):
        multi_directional_scan(*with_(inputs, index, inputs[index].long()), order)


def test_wrong_orders_ranges_devices_and_backends_are_named():
    inputs, order = scan_inputs()
    broken = order.clone()
    broken[1, 0] = broken[1, 1]
    for bad in (broken, order + 1, -order):
        with pytest.raises(ValueError, match="^order: row . is no permutation"):
            multi_directional_scan(*inputs, bad)
    for bad in (order.long(), order[0], order[:, :-1], order[:1]):
        with pytest.raises(ValueError, match=r"^(order|dt): expected"):
            multi_directional_scan(*inputs, bad)
    for bad in ((-1, 2), (0, 6), (5, 1), (2, -1)):
        with pytest.raises(ValueError, match="^out: expected"):
            multi_directional_scan(*inputs, order, bad)
    with pytest.raises(ValueError, match="^A: expected on cpu"):
        multi_directional_scan(*with_(inputs, 4, inputs[4].to("meta")), order)
    with pytest.raises(ValueError, match="^backend: expected"):
        multi_directional_scan(*inputs, order, backend="cuda_fast")
