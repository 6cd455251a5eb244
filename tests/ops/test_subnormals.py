"""Subnormal numbers: the CPU kernels make none, give out no gradient near them, and leave the control word alone."""

import pytest
import torch

from avsmamba.ops import a2v, available_backends, depthwise_conv, multi_directional_scan, v2a
from tests.ops.conftest import NAMES, relative_error, scan_inputs

pytestmark = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ kernel was not built")
LEAST = 2.0**-100  # kNegligible of csrc/cpu/common.h
SUBNORMAL = torch.finfo(torch.float32).tiny
FRAMES, SIDE = 5, 24
ORDERS = {"v2a": v2a(FRAMES, SIDE, SIDE), "a2v": a2v(FRAMES, SIDE, SIDE)}
WIDTHS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request, monkeypatch):
    monkeypatch.setenv("AVSMAMBA_CPU_ISA", request.param)
    try:
        multi_directional_scan(*scan_inputs()[0], scan_inputs()[1])
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    return request.param


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def long_scan(name, dtype, scale=1.0):
    """Return a scan whose output matters in one place only: gradients decay from there on, below any float32."""
    order, out = ORDERS[name]
    inputs, _ = scan_inputs(1, order.shape[1], 20, 4, 2, 3, dtype)
    dy = torch.zeros(1, out[1], 20)
    dy[:, -1] = torch.randn(20, generator=torch.Generator().manual_seed(1)) * scale
    return [t.detach().requires_grad_() for t in inputs], order, out, dy.to(dtype)


def gradients(inputs, order, out, dy):
    return torch.autograd.grad(multi_directional_scan(*inputs, order, out, backend="cpu"), inputs, dy)


def wide(inputs, dtype):
    return [t.detach().to(dtype).requires_grad_() for t in inputs]


def between(t, low, high):
    magnitude = t.detach().double().abs()
    return int(((magnitude > low) & (magnitude < high)).sum())


@pytest.mark.parametrize("dtype", list(WIDTHS))
@pytest.mark.parametrize("name", list(ORDERS))
def test_no_gradient_of_a_long_scan_is_subnormal(name, dtype, isa, threads):
    inputs, order, out, dy = long_scan(name, dtype)
    exact = gradients(wide(inputs, torch.float64), order, out, dy.double())
    assert between(exact[0], 0, SUBNORMAL) > 100 and between(exact[0], SUBNORMAL, LEAST) > 100, "too easy"
    for of, got, expected in zip(NAMES, gradients(inputs, order, out, dy), exact, strict=True):
        assert between(got, 0, LEAST) == 0, of
        assert relative_error(got, expected) < WIDTHS[dtype], of


@pytest.mark.parametrize("name", list(ORDERS))
def test_float16_keeps_its_own_subnormals(name):
    """They are ordinary numbers to the kernels, as upstream gradients and as returned ones."""
    inputs, order, out, dy = long_scan(name, torch.float16, scale=2.0**-18)
    assert between(dy, 0, torch.finfo(torch.float16).tiny) > 10
    grads, in_float32 = (
        gradients(inputs, order, out, dy),
        gradients(wide(inputs, torch.float32), order, out, dy.float()),
    )
    for of, got, expected in zip(NAMES, grads, in_float32, strict=True):
        assert torch.equal(got, expected.to(got.dtype)), of
    assert between(grads[0], 0, torch.finfo(torch.float16).tiny) > 10


@pytest.mark.parametrize("dtype", list(WIDTHS))
@pytest.mark.parametrize("activation", [None, "silu"])
def test_no_gradient_of_a_convolution_is_subnormal(activation, dtype, isa, threads):
    g = torch.Generator().manual_seed(0)
    shape = (2, 3, 9, 8, 21)
    x, dy = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    dy = dy * 10 ** -(torch.rand(2, 3, 9, 8, 1, generator=g) * 60).double()  # each token's of another size
    weight, bias = torch.randn(21, 1, 3, 3, 3, generator=g), torch.randn(21, generator=g)
    weight[:4], dy[..., :4] = weight[:4] * 1e-36, dy[..., :4] * 1e-35  # whole channels too
    inputs = [x.to(dtype).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    dy = dy.to(dtype)
    y = depthwise_conv(*inputs, activation, backend="cpu")
    exact = wide(inputs, torch.float64)
    wanted = torch.autograd.grad(depthwise_conv(*exact, activation, backend="torch"), exact, dy.double())
    if dtype != torch.float16:
        assert all(between(w, 0, LEAST) for w in wanted), "too easy"
    for of, got, expected in zip(("x", "weight", "bias"), torch.autograd.grad(y, inputs, dy), wanted, strict=True):
        assert between(got, 0, LEAST) == 0, of
        assert relative_error(got, expected) < WIDTHS[dtype], of


@pytest.mark.parametrize(("dtype", "small"), [(torch.float32, 1e-40), (torch.bfloat16, 1e-40), (torch.float64, 1e-310)])
def test_every_thread_takes_subnormals_for_zeros(dtype, small, threads):
    """With B = 0 and D = 1, and with a kernel of one tap, outputs are x."""
    x = torch.full((7, 9, 16), small, dtype=dtype)
    x[:, ::2] = 1
    assert (x != 0).all()
    state = torch.float64 if dtype == torch.float64 else torch.float32
    one, tokens = torch.ones(1, 16, dtype=state), torch.zeros(7, 9, 1, 1, dtype=dtype)
    order = torch.arange(9, dtype=torch.int32)[None]
    y = multi_directional_scan(x, tokens, tokens, tokens, -one[..., None], one, one[..., None], -one, order)
    z = depthwise_conv(x, torch.ones(16, 1, 1, dtype=state))
    for got in (y, z):
        assert (got[:, ::2] == 1).all() and (got[:, 1::2] == 0).all()


def keeps_subnormals():
    """Return whether torch keeps them, in the calling thread and in parts of its other threads."""
    return bool(torch.tensor([1e-40]) * 1), bool((torch.full((1 << 20,), 1e-40) * 1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_control_word_is_as_it_was(dtype, threads):
    def run():
        inputs, order = scan_inputs(3, 70, 40, 2, 3, 2, dtype)
        inputs = [t.detach().requires_grad_() for t in inputs]
        multi_directional_scan(*inputs, order).sum().backward()
        x = torch.randn(3, 4, 20, 5, 40, dtype=dtype, requires_grad=True)
        depthwise_conv(x, torch.randn(40, 1, 3, 3, 3, dtype=dtype), activation="silu").sum().backward()

    assert keeps_subnormals() == (True, True)
    run()
    assert keeps_subnormals() == (True, True)
    if not torch.set_flush_denormal(True):
        pytest.skip("torch cannot flush subnormals on this CPU")
    try:
        run()
        assert not keeps_subnormals()[0]
    finally:
        torch.set_flush_denormal(False)
    assert keeps_subnormals() == (True, True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_no_number_is_not_taken_for_a_small_one(value, isa):
    inputs, order = scan_inputs(1, 40, 20, 2, 3, 2)
    inputs = [t.detach().requires_grad_() for t in inputs]
    y = multi_directional_scan(*inputs, order)
    dx, *_, dD, _, dbias = torch.autograd.grad(y, inputs, torch.full_like(y, value))
    assert not (dx.isfinite().any() or dD.isfinite().any() or dbias.isfinite().any())
    x = torch.randn(1, 4, 4, 20, requires_grad=True)
    z = depthwise_conv(x, torch.ones(20, 1, 3, 3))
    assert not torch.autograd.grad(z, x, torch.full_like(z, value))[0].isfinite().any()
