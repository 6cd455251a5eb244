"""The operator against its float64 reference: values, gradients, registration, memory, determinism."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avsmamba.ops import (
    ScanParameters,
    a2v,
    available_backends,
    cross_scan_2d,
    cross_scan_3d,
    multi_directional_scan,
    one_way,
    selective_scan_1d,
    selective_scan_2d,
    selective_scan_3d,
    selective_scan_a2v,
    selective_scan_v2a,
    v2a,
)
from avsmamba.ops.scan_reference import reference_scan_backward
from tests.ops.conftest import NAMES, relative_error, scan_inputs

needs_kernel = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ kernel was not built")


def loop(x, dt, B, C, A, D, dt_weight, dt_bias, order):
    """Compute Eq. 3 and 4 with scalars, batch 1: the most obvious form."""
    length, channels = x.shape[1:]
    y = torch.zeros(length, channels, dtype=torch.float64)
    for k in range(len(order)):
        for e in range(channels):
            h = [0.0] * A.shape[-1]
            for i in order[k].tolist():
                raw = float(dt_bias[k, e]) + sum(
                    float(dt[0, i, k, r] * dt_weight[k, e, r]) for r in range(dt.shape[-1])
                )
                delta = float(torch.log1p(torch.exp(torch.tensor(raw, dtype=torch.float64))))
                for n in range(len(h)):
                    decay = float(torch.exp(torch.tensor(delta * float(A[k, e, n]), dtype=torch.float64)))
                    h[n] = decay * h[n] + delta * float(B[0, i, k, n]) * float(x[0, i, e])
                    y[i, e] += h[n] * float(C[0, i, k, n])
                y[i, e] += float(D[k, e]) * float(x[0, i, e])
    return y[None]


def test_reference_equals_the_formula():
    inputs, order = scan_inputs(dtype=torch.float64)
    torch.testing.assert_close(multi_directional_scan(*inputs, order, backend="torch"), loop(*inputs, order))


def test_written_out_backward_equals_autograd():
    inputs, order = scan_inputs(2, 9, 5, 3, 4, 2, torch.float64)
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    y = multi_directional_scan(*inputs, order, (2, 5), backend="torch")
    dy = torch.randn_like(y)
    written = reference_scan_backward(dy, *(t.detach() for t in inputs), order, (2, 5))
    for name, got, wanted in zip(NAMES, written, torch.autograd.grad(y, inputs, dy), strict=True):
        torch.testing.assert_close(got, wanted, msg=lambda m, n=name: f"{n}: {m}")


shapes = st.fixed_dictionaries(
    {
        "b": st.integers(1, 3),
        "length": st.sampled_from([1, 2, 31, 32, 33, 63, 97]),
        "channels": st.sampled_from([1, 3, 8, 16, 17, 40, 65]),
        "directions": st.integers(1, 12),
        "states": st.sampled_from([1, 2, 3, 7, 8, 16]),
        "rank": st.integers(1, 6),
        "seed": st.integers(0, 999),
    }
)


@needs_kernel
@settings(max_examples=25, deadline=None)
@given(shape=shapes, start=st.floats(0, 1), end=st.floats(0, 1))
@example(shape={"length": 1, "channels": 1, "directions": 1, "states": 1, "rank": 1}, start=0, end=1)
@example(shape={"b": 2, "length": 97, "channels": 65, "directions": 12, "states": 16}, start=0.9, end=1)
@example(shape={"length": 32, "channels": 1, "directions": 2, "states": 16, "rank": 1, "seed": 153}, start=0, end=0)
def test_kernel_equals_the_float64_reference(shape, start, end):
    inputs, order = scan_inputs(**shape)
    length = inputs[0].shape[1]
    first = min(int(start * length), length - 1)
    out = (first, max(1, int(end * (length - first))))
    exact = [t.double().requires_grad_() for t in inputs]
    inputs = [t.requires_grad_() if t.is_leaf else t.detach().requires_grad_() for t in inputs]
    expected = multi_directional_scan(*exact, order, out, backend="torch")
    got = multi_directional_scan(*inputs, order, out, backend="cpu")
    assert got.shape == expected.shape == (inputs[0].shape[0], out[1], inputs[0].shape[2])
    # An output is a sum that may cancel: its error is held against the sum of its terms' sizes.
    signed = ("x", "B", "C", "D")
    sizes = [t.detach().abs() if name in signed else t.detach() for name, t in zip(NAMES, exact, strict=True)]
    terms = multi_directional_scan(*sizes, order, out, backend="torch")
    assert ((got.double() - expected).abs() <= 3e-6 * terms + 1e-12).all()
    random = torch.Generator().manual_seed(0)
    grads = [torch.randn(expected.shape, generator=random, dtype=torch.float64) for _ in range(3)]
    wanted = [
        torch.autograd.grad(expected, exact, g, allow_unused=True, materialize_grads=True, retain_graph=True)
        for g in grads
    ]
    for i, (name, g) in enumerate(zip(NAMES, torch.autograd.grad(got, inputs, grads[0].float()), strict=True)):
        # A gradient of one element is a sum that may cancel: its size is taken from several of its kind.
        size = max(float(w[i].abs().max()) for w in wanted)
        assert (g.double() - wanted[0][i]).abs().max() <= 1e-5 * max(size, 1e-12), name


@needs_kernel
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_kernel_is_accurate_for_small_and_large_delta(scale):
    inputs, order = scan_inputs(2, 70, 20, 3, 4, 3)
    inputs[7] = inputs[7] * scale
    inputs[6] = inputs[6] * scale
    expected = multi_directional_scan(*(t.double() for t in inputs), order, backend="torch")
    assert relative_error(multi_directional_scan(*inputs, order), expected) < 1e-5


def test_inputs_may_be_strided():
    inputs, order = scan_inputs(2, 33, 20, 3, 4, 3)
    expected = multi_directional_scan(*(t.contiguous() for t in inputs), order)
    wide = torch.zeros(2, 66, 40)
    wide[:, ::2, 20:] = inputs[0]
    strided = [wide[:, ::2, 20:], *inputs[1:]]
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
    assert torch.equal(multi_directional_scan(*strided, order), expected)
    transposed = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in inputs]
    assert torch.equal(multi_directional_scan(*transposed, order), expected)


def test_empty_batch_and_empty_range():
    inputs, order = scan_inputs()
    empty = [t[:0] for t in inputs[:4]] + inputs[4:]
    assert multi_directional_scan(*empty, order).shape == (0, 5, 4)
    assert multi_directional_scan(*inputs, order, (2, 0)).shape == (1, 0, 4)


def test_range_is_a_slice_of_the_whole():
    inputs, order = scan_inputs(2, 40, 20, 3, 4, 3)
    whole = multi_directional_scan(*inputs, order)
    for out in ((0, 40), (39, 1), (0, 1), (7, 20)):
        torch.testing.assert_close(multi_directional_scan(*inputs, order, out), whole[:, out[0] : sum(out)])


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_gradcheck(backend):
    inputs, order = scan_inputs(2, 5, 3, 3, 2, 2, torch.float64)
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    for out in (None, (1, 3)):
        assert torch.autograd.gradcheck(lambda *t, o=out: multi_directional_scan(*t, order, o, backend), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(dtype, requires_grad):
    inputs, order = scan_inputs(2, 7, 5, 3, 2, 2, dtype)
    inputs = [t.detach().clone().requires_grad_(requires_grad) for t in inputs]
    forward = torch.ops.avsmamba.multi_directional_scan.default
    for keep_states in (False, True):
        torch.library.opcheck(forward, (*inputs, order, 1, 4, keep_states))
    dy = torch.randn(2, 4, 5, dtype=dtype)
    detached = [t.detach() for t in inputs]
    states = forward(*detached, order, 1, 4, True)[1]
    backward = torch.ops.avsmamba.multi_directional_scan_backward.default
    torch.library.opcheck(backward, (dy, states, *detached, order, 1, 4))


def test_gradients_do_not_depend_on_whether_the_forward_kept_its_states():
    """Tiles after the last requested token, channel tails, several tiles; without states the backward computes them."""
    inputs, order = scan_inputs(2, 150, 21, 3, 5, 2)
    forward, backward = torch.ops.avsmamba.multi_directional_scan, torch.ops.avsmamba.multi_directional_scan_backward
    y, states = forward(*inputs, order, 4, 3, True)
    assert torch.equal(y, forward(*inputs, order, 4, 3)[0]) and forward(*inputs, order, 4, 3)[1].numel() == 0
    dy = torch.randn_like(y)
    kept, recomputed = (backward(dy, s, *inputs, order, 4, 3) for s in (states, torch.empty(0)))
    for name, a, b in zip(NAMES, kept, recomputed, strict=True):
        assert torch.equal(a, b), name
    if "cpu" in available_backends():
        assert states.shape[:2] == (2, 3) and states.shape[3:] == (5, 21) and bool(states.isfinite().all())
        with pytest.raises(RuntimeError, match="states"):
            backward(dy, states[:, :, 1:].contiguous(), *inputs, order, 4, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_low_precision_inputs_keep_a_float32_state(dtype, tolerance):
    """The outputs and gradients are those of float32 inputs of the same values, rounded at the end."""
    inputs, order = scan_inputs(2, 200, 20, 2, 3, 3, dtype)
    inputs = [t.detach().requires_grad_() for t in inputs]
    wide = [t.detach().float().requires_grad_() for t in inputs]
    y, y32 = multi_directional_scan(*inputs, order, (3, 180)), multi_directional_scan(*wide, order, (3, 180))
    assert y.dtype == dtype and torch.equal(y, y32.to(dtype))
    exact = multi_directional_scan(*(t.double() for t in inputs), order, (3, 180), backend="torch")
    assert relative_error(y, exact) < tolerance
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, inputs, dy)
    for name, t, g, w in zip(NAMES, inputs, grads, torch.autograd.grad(y32, wide, dy.float()), strict=True):
        assert g.dtype == t.dtype and torch.equal(g, w.to(t.dtype)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_value_is_read_exactly(dtype):
    """B is zero, so that y = x: all finite values, both zeros and float16's subnormal ones among them.

    Those of bfloat16 are subnormal in float32 too, and read as zeros.
    """
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()].view(1, -1, 16)
    tokens = torch.zeros(1, x.shape[1], 1, 1, dtype=dtype)
    one = torch.ones(1, 16)
    order = torch.arange(x.shape[1], dtype=torch.int32)[None]
    y = multi_directional_scan(x, tokens, tokens, tokens, -one[..., None], one, one[..., None], -one, order)
    assert torch.equal(y, x if dtype == torch.float16 else x.masked_fill(x.abs() < torch.finfo(dtype).tiny, 0))


def test_autocast_casts_the_tokens():
    inputs, order = scan_inputs(1, 20, 20, 2, 4, 3)
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        y = multi_directional_scan(*inputs, order)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert multi_directional_scan(*(t.double() for t in inputs), order).dtype == torch.float64


def test_results_repeat_for_a_given_number_of_threads():
    inputs, order = scan_inputs(2, 150, 70, 4, 5, 3)
    inputs = [t.detach().clone().requires_grad_() for t in inputs]

    def run():
        y = multi_directional_scan(*inputs, order)
        return y, *torch.autograd.grad(y.square().sum(), inputs)

    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            first = run()
            for _ in range(3):
                assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_results_do_not_depend_on_how_jobs_are_cut(threads):
    """More threads than channel tiles: the directions are cut into groups too."""
    inputs, order = scan_inputs(1, 50, 20, 5, 4, 3)
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = multi_directional_scan(*exact, order, backend="torch")
    wanted = torch.autograd.grad(expected.square().sum(), exact)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = multi_directional_scan(*inputs, order)
        grads = torch.autograd.grad(y.square().sum(), inputs)
    finally:
        torch.set_num_threads(before)
    assert relative_error(y, expected) < 1e-5
    for name, g, w in zip(NAMES, grads, wanted, strict=True):
        assert relative_error(g, w) < 1e-5, name


ISA_PROBE = """
import torch
from avsmamba.ops import multi_directional_scan
from tests.ops.conftest import relative_error, scan_inputs
worst = 0
shapes = ((2, 45, 21, 3, 5, 3), (1, 33, 64, 2, 16, 16), (1, 1, 1, 1, 1, 1), (3, 70, 65, 1, 7, 5), (1, 97, 40, 2, 8, 2))
for shape in shapes:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        inputs, order = scan_inputs(*shape, dtype)
        inputs = [t.detach().requires_grad_() for t in inputs]
        exact = [t.detach().double().requires_grad_() for t in inputs]
        out = (shape[1] // 4, (shape[1] + 1) // 2)
        y, e = (multi_directional_scan(*t, order, out, b) for t, b in ((inputs, "cpu"), (exact, "torch")))
        dy = torch.ones_like(y)
        g, w = torch.autograd.grad(y, inputs, dy), torch.autograd.grad(e, exact, dy.double())
        for a, b in zip((y, *g), (e, *w)):
            rounding = 0 if a.dtype == torch.float32 else torch.finfo(a.dtype).eps / 2
            worst = max(worst, relative_error(a, b) - rounding)
print(worst)
"""


@needs_kernel
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set_computes_the_same(isa):
    done = subprocess.run(
        [sys.executable, "-c", ISA_PROBE],
        env=os.environ | {"AVSMAMBA_CPU_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if "this CPU has no" in done.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


@needs_kernel
def test_unknown_instruction_set_is_an_error():
    done = subprocess.run(
        [sys.executable, "-c", ISA_PROBE],
        env=os.environ | {"AVSMAMBA_CPU_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "AVSMAMBA_CPU_ISA: expected" in done.stderr


MEMORY_PROBE = """
import resource, torch
from avsmamba.ops import cross_scan_3d, multi_directional_scan
torch.set_num_threads(2)
L, E, K, N, R = 5 * 64 * 64, 64, 12, 4, 2
x, p = torch.randn(1, L, E, requires_grad=True), torch.randn(1, L, K, R + 2 * N)
A, D, W, b = -torch.rand(K, E, N), torch.rand(K, E), torch.rand(K, E, R), torch.rand(K, E)
order = cross_scan_3d(5, [(64, 64)], K)
def run(length):
    o = order[:, :length] if length == L else torch.arange(length).int().expand(K, -1).contiguous()
    y = multi_directional_scan(x[:, :length], *p[:, :length].split([R, N, N], -1), A, D, W, b, o)
    y.sum().backward()
run(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(L)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (K * L * E * 4))
"""


@needs_kernel
def test_no_tensor_of_all_directions_is_made():
    """Forward and backward together raise the peak by less than one K x L x E tensor, for all they allocate."""
    done = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.8


def test_meta_tensors_have_the_right_shape():
    inputs, order = scan_inputs()
    y = multi_directional_scan(*(t.to("meta") for t in inputs), order.to("meta"), (1, 3))
    assert y.shape == (1, 3, 4) and y.device.type == "meta"


def test_the_paper_s_scans_call_the_operator_with_their_orders_and_ranges():
    sizes = [(3, 2), (1, 2)]
    for scan, length, order, *out in (
        (lambda x, p: selective_scan_1d(x, p, reverse=True), 5, one_way(5, reverse=True)),
        (lambda x, p: selective_scan_2d(x, p, sizes), 8, cross_scan_2d(sizes)),
        (lambda x, p: selective_scan_3d(x, p, 3, sizes), 24, cross_scan_3d(3, sizes, 6)),
        (lambda x, p: selective_scan_v2a(x, p, 3, 3, 2), 21, *v2a(3, 3, 2)),
        (lambda x, p: selective_scan_a2v(x, p, 3, 3, 2), 21, *a2v(3, 3, 2)),
    ):
        inputs, _ = scan_inputs(2, length, 4, len(order))
        expected = multi_directional_scan(*inputs, order, *out)
        assert torch.equal(scan(inputs[0], ScanParameters(*inputs[1:])), expected)
