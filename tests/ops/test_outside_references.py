"""Our operators against the reference functions of mamba_ssm and causal_conv1d, and the backend `mamba_ssm`."""

import pytest
import torch

from avsmamba.ops import (
    a2v,
    available_backends,
    cross_scan_2d,
    cross_scan_3d,
    depthwise_conv,
    multi_directional_scan,
    scan_mamba_ssm,
    v2a,
)
from tests.ops.conftest import NAMES, relative_error, scan_inputs
from tests.ops.outside import reference

ORDERS = {
    "2d": (cross_scan_2d([(3, 5), (2, 2)]), None),
    "3d": (cross_scan_3d(2, [(3, 2), (1, 2)], 12), None),
    "v2a-frame": v2a(1, 3, 4),
    "v2a-temporal": v2a(3, 2, 3),
    "a2v": a2v(3, 2, 3),
}


@pytest.fixture
def selective_scan_ref():
    return reference("mamba_ssm.ops.selective_scan_interface", "selective_scan_ref")


@pytest.fixture
def causal_conv1d_ref():
    return reference("causal_conv1d.causal_conv1d_interface", "causal_conv1d_ref")


def direction_by_direction(selective_scan_ref, x, dt, B, C, A, D, dt_weight, dt_bias, order, out):
    """Scan each direction's tokens in its order with the outside function; reorder and add up."""
    y = torch.zeros_like(x)
    for k, steps in enumerate(order.long()):
        delta = dt[:, steps, k] @ dt_weight[k].T
        turned = [t.transpose(1, 2) for t in (x[:, steps], delta, B[:, steps, k], C[:, steps, k])]
        ours = selective_scan_ref(*turned[:2], A[k], *turned[2:], D[k], delta_bias=dt_bias[k], delta_softplus=True)
        y = y.index_add(1, steps, ours.transpose(1, 2))
    return y[:, out[0] : sum(out)]


def same_with_gradients(names, got, expected, inputs, tolerance):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert relative_error(got, expected) < tolerance
    dy = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(expected, inputs, dy)
    for name, g, w in zip(names, torch.autograd.grad(got, inputs, dy), wanted, strict=True):
        assert relative_error(g, w) < tolerance, name


def leaves(kind, states):
    order, out = ORDERS[kind]
    directions, length = order.shape
    inputs, _ = scan_inputs(2, length, 9, directions, states, 3)
    return [t.detach().clone().requires_grad_() for t in inputs], order, out or (0, length)


@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("kind", ORDERS)
def test_the_scan_equals_mamba_ssm_s(kind, states, selective_scan_ref):
    inputs, order, out = leaves(kind, states)
    expected = direction_by_direction(selective_scan_ref, *inputs, order, out)
    same_with_gradients(NAMES, multi_directional_scan(*inputs, order, out), expected, inputs, 1e-5)


@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("kind", ORDERS)
def test_what_the_backend_materialises(kind, states, selective_scan_ref):
    """The backend with the outside reference in the place of the outside kernel, which takes the same arguments."""
    inputs, order, out = leaves(kind, states)
    got = scan_mamba_ssm.materialised_scan(selective_scan_ref, *inputs, order, out)
    assert got.is_contiguous()
    same_with_gradients(NAMES, got, multi_directional_scan(*inputs, order, out), inputs, 1e-5)
    low = [t.bfloat16() if i < 4 else t for i, t in enumerate(inputs)]
    got = scan_mamba_ssm.materialised_scan(selective_scan_ref, *low, order, out)
    assert got.dtype == torch.bfloat16
    assert relative_error(got, multi_directional_scan(*low, order, out)) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("taps, bias, activation", [(2, True, None), (3, False, "silu"), (4, True, "silu")])
def test_the_causal_convolution_equals_causal_conv1d_s(taps, bias, activation, dtype, causal_conv1d_ref):
    g = torch.Generator().manual_seed(0)
    shapes = [(2, 11, 10), (10, 1, taps), *([(10,)] if bias else [])]
    x, weight, *more = (torch.randn(s, generator=g, dtype=dtype).requires_grad_() for s in shapes)
    expected = causal_conv1d_ref(x.transpose(1, 2), weight[:, 0], *more, activation=activation).transpose(1, 2)
    got = depthwise_conv(x, weight, *more, activation=activation, causal=True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    same_with_gradients(("x", "weight", "bias")[: 2 + bias], got, expected, [x, weight, *more], tolerance)


def test_the_backend_says_why_it_cannot_run(monkeypatch):
    inputs, order = scan_inputs()

    def why():
        assert "mamba_ssm" not in available_backends()
        with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run") as error:
            multi_directional_scan(*inputs, order, backend="mamba_ssm")
        return str(error.value)

    monkeypatch.setattr(scan_mamba_ssm, "find_spec", lambda name: None)
    assert "cannot run: not installed (`pip install mamba-ssm`" in why()
    monkeypatch.setattr(scan_mamba_ssm, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "there is none here" in why()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(scan_mamba_ssm, "INTERFACE", "tests.ops.no_such_interface")
    scan_mamba_ssm._load.cache_clear()
    assert "does not load: No module named 'tests.ops.no_such_interface'" in why()
    scan_mamba_ssm._load.cache_clear()
    monkeypatch.setattr(scan_mamba_ssm, "_load", lambda: (print, None))
    assert "mamba_ssm" in available_backends()
    with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run: x is on cpu"):
        multi_directional_scan(*inputs, order, backend="mamba_ssm")


@pytest.mark.gpu
@pytest.mark.skipif("mamba_ssm" not in available_backends(), reason="mamba_ssm cannot run here")
@pytest.mark.parametrize("states", [1, 16])
@pytest.mark.parametrize("kind", ORDERS)
def test_the_backend_on_a_gpu(kind, states):
    inputs, order, out = leaves(kind, states)
    inputs = [t.detach().cuda().requires_grad_() for t in inputs]
    order = order.cuda()
    expected = multi_directional_scan(*inputs, order, out, backend="torch")
    got = multi_directional_scan(*inputs, order, out, backend="mamba_ssm")
    assert relative_error(got, expected) < 1e-4
    dy = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, dy)
    for name, g, w in zip(NAMES, torch.autograd.grad(got, inputs, dy), wanted, strict=True):
        assert relative_error(g, w) < 1e-4, name
    with pytest.raises(ValueError, match="x: expected float32"):
        multi_directional_scan(*(t.double() for t in inputs), order, out, backend="mamba_ssm")
