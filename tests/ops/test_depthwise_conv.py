"""The depthwise convolution against a sum written out in float64: values, gradients, registration, errors."""

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from avsmamba.ops import available_backends, depthwise_conv
from tests.ops.conftest import relative_error

module = sys.modules[depthwise_conv.__module__]
needs_kernel = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ kernel was not built")


def conv_inputs(shape=(2, 3, 4, 5, 6), kernel=(3, 3, 3), dtype=torch.float32, seed=0):
    """Return tokens (the second half of a projection), weight and bias; all require gradients."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape[:-1], 2 * shape[-1], generator=g, dtype=torch.float64).to(dtype)[..., shape[-1] :]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.randn(shape[-1], 1, *kernel, generator=g, dtype=torch.float64).to(wide)
    bias = torch.randn(shape[-1], generator=g, dtype=torch.float64).to(wide)
    return [t.requires_grad_() for t in (x, weight, bias)]


def exact(inputs):
    return [t.detach().double().requires_grad_() for t in inputs]


def compare(inputs, activation, causal, backend="cpu", tolerance=1e-5):
    """Forward and each gradient against torch's own convolution in float64.

    An error counts by what is expected, but at least by the size that such a sum of random terms has: where there is
    one channel, its terms can cancel each other.
    """
    wide = exact(inputs)
    expected = depthwise_conv(*wide, activation, causal, backend="torch")
    got = depthwise_conv(*inputs, activation, causal, backend=backend)
    assert got.shape == inputs[0].shape and got.dtype == inputs[0].dtype
    dy = torch.randn(got.shape, dtype=got.dtype)
    grads, wanted = torch.autograd.grad(got, inputs, dy), torch.autograd.grad(expected, wide, dy.double())
    over_tokens = float(dy.double().square().sum(tuple(range(dy.dim() - 1))).sqrt().max())
    for name, a, b in zip(("y", "dx", "dweight", "dbias"), (got, *grads), (expected, *wanted), strict=True):
        usual = over_tokens if name in ("dweight", "dbias") else 0.1
        assert relative_error(a, b, usual) < tolerance, name


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(
    ("shape", "kernel", "causal"),
    [((1, 3, 2, 4, 2), (3, 1, 3), False), ((1, 2, 3, 4, 2), (2, 3, 5), True), ((2, 5, 3), (4,), True)],
)
def test_equals_a_sum_written_out(shape, kernel, causal, backend):
    x, weight, bias = (t.detach() for t in conv_inputs(shape, kernel, torch.float64))
    expected = torch.zeros(shape, dtype=torch.float64)
    sizes = shape[-1 - len(kernel) : -1]
    for b, c in itertools.product(range(shape[0]), range(shape[-1])):
        for place in itertools.product(*map(range, sizes)):
            total = float(bias[c])
            for tap in itertools.product(*map(range, kernel)):
                front = [k // 2 for k in kernel]
                front[0] = kernel[0] - 1 if causal else front[0]
                at = [p + k - f for p, k, f in zip(place, tap, front, strict=True)]
                if all(0 <= i < n for i, n in zip(at, sizes, strict=True)):
                    total += float(weight[(c, 0, *tap)]) * float(x[(b, *at, c)])
            expected[(b, *place, c)] = total / (1 + math.exp(-total))
    torch.testing.assert_close(depthwise_conv(x, weight, bias, "silu", causal, backend=backend), expected)


shapes = st.tuples(
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 9, 17]),
    st.sampled_from([1, 2, 5, 7]),
    st.sampled_from([1, 3, 4, 8, 15]),
    st.sampled_from([1, 3, 8, 16, 17, 40, 65, 130]),
)


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(
    shape=shapes,
    kernel=st.sampled_from([(3, 3, 3), (3, 3), (3,), (1, 1, 1), (5, 1, 3), (7, 5)]),
    activation=st.sampled_from([None, "silu"]),
    causal=st.booleans(),
    axes=st.integers(1, 3),
)
@example(shape=(1, 1, 1, 1, 1), kernel=(3, 3, 3), activation="silu", causal=False, axes=3)
@example(shape=(2, 17, 7, 15, 65), kernel=(3, 3, 3), activation="silu", causal=True, axes=3)
def test_kernel_equals_the_float64_convolution(shape, kernel, activation, causal, axes):
    axes = max(axes, len(kernel))
    compare(conv_inputs((shape[0], *shape[4 - axes :]), kernel), activation, causal)


@needs_kernel
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_causal_convolution_over_a_sequence(taps):
    compare(conv_inputs((2, 21, 20), (taps,)), "silu", True)
    compare(conv_inputs((2, 1, 20), (taps,)), "silu", True)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_no_bias_is_a_bias_of_zeros(activation):
    x, weight, bias = conv_inputs()
    y = depthwise_conv(x, weight, None, activation)
    assert torch.equal(y, depthwise_conv(x, weight, torch.zeros_like(bias), activation))
    y.sum().backward()
    assert x.grad is not None and weight.grad is not None


def test_layout_of_inputs_and_gradients_does_not_matter():
    inputs = conv_inputs((2, 3, 4, 5, 20))
    y = depthwise_conv(*inputs, "silu")
    assert y.is_contiguous() and not inputs[0].is_contiguous()
    wanted = torch.autograd.grad(y, inputs, torch.ones_like(y))
    for change in (lambda t: t.contiguous(), lambda t: t.transpose(0, -1).contiguous().transpose(0, -1)):
        others = [change(t.detach()).requires_grad_() for t in inputs]
        z = depthwise_conv(*others, "silu")
        assert torch.equal(z, y)
        for a, b in zip(torch.autograd.grad(z.sum(), others), wanted, strict=True):  # sum gives an expanded gradient
            assert torch.equal(a, b)


def test_empty_axes():
    for shape in ((0, 2, 3, 3, 4), (1, 0, 3, 3, 4), (1, 2, 0, 3, 4), (1, 2, 3, 0, 4)):
        inputs = conv_inputs(shape)
        y = depthwise_conv(*inputs, "silu")
        assert y.shape == shape
        if available_backends()[0] == "cpu":
            grads = torch.autograd.grad(y, inputs, torch.ones_like(y))
            assert all(g.shape == t.shape and not g.any() for g, t in zip(grads, inputs, strict=True))


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradcheck(backend, activation):
    for shape, kernel, causal in (((1, 3, 2, 5, 3), (3, 3, 3), False), ((2, 3, 3, 2), (3, 3), True)):
        inputs = conv_inputs(shape, kernel, torch.float64)
        assert torch.autograd.gradcheck(lambda *t, c=causal: depthwise_conv(*t, activation, c, backend), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(dtype, requires_grad):
    x, weight, bias = (t.detach().requires_grad_(requires_grad) for t in conv_inputs(dtype=dtype))
    torch.library.opcheck(torch.ops.avsmamba.depthwise_conv.default, (x, weight, bias, [1, 1, 1], True))
    torch.library.opcheck(torch.ops.avsmamba.depthwise_conv.default, (x, weight, None, [2, 1, 1], False))
    given = (torch.randn_like(x), x.detach(), weight.detach(), bias.detach(), [1, 1, 1], True)
    torch.library.opcheck(torch.ops.avsmamba.depthwise_conv_backward.default, given)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_keep_float32_sums(dtype):
    """The outputs and gradients are those of float32 inputs of the same values, rounded at the end."""
    inputs = conv_inputs((1, 5, 6, 7, 37), dtype=dtype)
    wide = [t.detach().float().requires_grad_() for t in inputs]
    y, y32 = depthwise_conv(*inputs, "silu"), depthwise_conv(*wide, "silu")
    assert y.dtype == dtype and torch.equal(y, y32.to(dtype))
    dy = torch.randn_like(y)
    for t, g, w in zip(
        inputs, torch.autograd.grad(y, inputs, dy), torch.autograd.grad(y32, wide, dy.float()), strict=True
    ):
        assert g.dtype == t.dtype and torch.equal(g, w.to(t.dtype))


def test_autocast_casts_the_tokens():
    inputs = conv_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv(*inputs).dtype == torch.bfloat16
        assert depthwise_conv(*exact(inputs)).dtype == torch.float64


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_threads_change_rounding_at_most_and_results_repeat(threads):
    """16 threads cut the rows too; frames are cut where there are more than eight."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for shape in ((1, 3, 50, 4, 20), (2, 19, 3, 3, 70)):
            inputs = conv_inputs(shape)
            compare(inputs, "silu", False)

            def run(inputs=inputs):
                y = depthwise_conv(*inputs, "silu")
                return y, *torch.autograd.grad(y.square().sum(), inputs)

            first = run()
            for _ in range(3):
                assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
    finally:
        torch.set_num_threads(before)


ISA_PROBE = """
import torch
from tests.ops.test_depthwise_conv import compare, conv_inputs
for shape, kernel, causal in (
    ((2, 3, 5, 17, 21), (3, 3, 3), False), ((1, 2, 3, 3, 65), (3, 3), False), ((2, 9, 40), (4,), True),
    ((1, 1, 1, 1, 1), (3, 3, 3), False),
):
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)):
        for activation in (None, "silu"):
            compare(conv_inputs(shape, kernel, dtype), activation, causal, tolerance=tolerance)
x = torch.linspace(-100, 100, 4096).view(1, 1, 4096)
y = torch.ops.avsmamba.depthwise_conv(x.view(1, 1, 1, 256, 16), torch.ones(16, 1, 1, 1, 1), None, [0, 0, 0], True)
assert ((y.flatten() - torch.nn.functional.silu(x.double()).flatten()).abs() <= 3e-7 * y.flatten().abs() + 1e-30).all()
print("done")
"""


@needs_kernel
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_computes_the_same(isa):
    env = os.environ | {"AVSMAMBA_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ISA_PROBE], env=env, capture_output=True, text=True)
    if "this CPU has no" in done.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize(("activation", "causal"), [("silu", False), (None, True)])
def test_torch_s_convolution_serves_where_there_is_no_kernel(activation, causal):
    for shape, kernel in (((2, 3, 4, 5, 6), (3, 3, 3)), ((2, 3, 4, 5, 6), (3, 3))):
        inputs = conv_inputs(shape, kernel)
        x, weight, bias = (t.detach() for t in inputs)
        front = [0] * (3 - len(kernel)) + [2 if causal else 1] + [1] * (len(kernel) - 1)
        weight = weight.view(shape[-1], 1, *(1,) * (3 - len(kernel)), *kernel)
        y = module._torch_forward(x, weight, bias, front, activation == "silu")
        torch.testing.assert_close(y, depthwise_conv(*inputs, activation, causal, backend="torch"))
        dy = torch.randn_like(y)
        wanted = torch.autograd.grad(depthwise_conv(*inputs, activation, causal, backend="torch"), inputs, dy)
        for got, w in zip(
            module._torch_backward(dy, x, weight, bias, front, activation == "silu"), wanted, strict=True
        ):
            torch.testing.assert_close(got.view_as(w), w, atol=1e-4, rtol=1e-4)


def test_causal_conv1d_is_used_for_what_it_takes(monkeypatch):
    """No GPU is needed: the choice looks at shapes, strides and the device's name; the call is the package's."""

    def causal_conv1d_fn(x, weight, bias=None, activation=None):
        y = F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=len(weight))
        return F.silu(y) if activation == "silu" else y

    class OnGPU(torch.Tensor):
        device = torch.device("cuda")

    monkeypatch.setattr(module, "causal_conv1d_fn", causal_conv1d_fn)
    x, weight, bias = (t.detach() for t in conv_inputs((2, 9, 16), (4,)))
    assert not module._suits_causal_conv1d(x, weight)
    assert module._suits_causal_conv1d(x.as_subclass(OnGPU), weight)
    for other, taps in ((x[..., :12], weight[:12]), (x, torch.ones(16, 1, 5)), (x.double(), weight), (x[None], weight)):
        assert not module._suits_causal_conv1d(other.as_subclass(OnGPU), taps)
    wanted = depthwise_conv(x, weight, bias, "silu", causal=True)
    monkeypatch.setattr(module, "_suits_causal_conv1d", lambda x, weight: True)
    torch.testing.assert_close(depthwise_conv(x, weight, bias, "silu", causal=True), wanted)


def test_double_backward_says_what_to_do():
    inputs = conv_inputs()
    (g,) = torch.autograd.grad(depthwise_conv(*inputs).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward"):
        g.sum().backward()
    y = depthwise_conv(*inputs, backend="torch")
    torch.autograd.grad(y.square().sum(), inputs[:1], create_graph=True)[0].sum().backward()


def test_flops_are_counted():
    """Forward as torch counts its own; backward is twice that (torch counts grouped ones too high there)."""
    inputs = conv_inputs((1, 3, 6, 5, 8))
    with FlopCounterMode(display=False) as counter:
        y = depthwise_conv(*inputs, "silu")
        forward = counter.get_total_flops()
        y.sum().backward()
    assert counter.get_total_flops() == 3 * forward
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        depthwise_conv(*inputs, backend="torch")
    assert counter.get_total_flops() == forward == 2 * 27 * 3 * 6 * 5 * 8


def test_meta_tensors_and_compile():
    inputs = conv_inputs()
    assert depthwise_conv(*(t.to("meta") for t in inputs), "silu").shape == inputs[0].shape
    compiled = torch.compile(lambda *t: depthwise_conv(*t, "silu"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), depthwise_conv(*inputs, "silu"))


def test_wrong_arguments_are_named():
    x, weight, bias = (t.detach() for t in conv_inputs())
    wrong = [
        ("x", (x[0, 0, 0], weight, bias)),
        ("x", (x.long(), weight, bias)),
        ("weight", (x[0, 0], weight, bias)),
        ("weight", (x, weight[:-1], bias)),
        ("weight", (x, weight[:, 0], bias)),
        ("weight", (x, weight[..., :2], bias)),
        ("weight", (x, weight[..., :0], bias)),
        ("weight", (x, weight.double(), bias)),
        ("weight", (x, weight.to("meta"), bias)),
        ("bias", (x, weight, bias[:-1])),
        ("bias", (x, weight, bias.double())),
        ("activation", (x, weight, bias, "relu")),
        ("backend", (x, weight, bias, None, False, "cuda_fast")),
    ]
    for name, arguments in wrong:
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            depthwise_conv(*arguments)


@needs_kernel
def test_a_kernel_that_cannot_run_is_an_error():
    with pytest.raises(RuntimeError, match="x is on meta"):
        depthwise_conv(*(t.to("meta") for t in conv_inputs()), backend="cpu")
    x, weight, bias = (t.detach() for t in conv_inputs())
    with pytest.raises(RuntimeError, match="front: expected"):
        torch.ops.avsmamba.depthwise_conv(x, weight, bias, [3, 1, 1], False)
    with pytest.raises(RuntimeError, match="weight: expected"):
        torch.ops.avsmamba.depthwise_conv(x, weight[:-1], bias, [1, 1, 1], False)
    with pytest.raises(RuntimeError, match="dy: expected"):
        torch.ops.avsmamba.depthwise_conv_backward(x[:, 1:], x, weight, bias, [1, 1, 1], False)
