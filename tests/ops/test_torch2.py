"""The operator as a citizen of torch 2: tracing, transforms, profiling, counting."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from avsmamba.ops import cross_scan_2d, cross_scan_3d, depthwise_conv, multi_directional_scan
from avsmamba.ops.scan_order import is_order_table
from tests.ops.conftest import NAMES, scan_inputs

FORWARD, BACKWARD = "avsmamba::multi_directional_scan", "avsmamba::multi_directional_scan_backward"


def leaves(*shape, **options):
    inputs, order = scan_inputs(*shape, **options)
    return [t.detach().clone().requires_grad_() for t in inputs], order


def test_opcheck_of_views_and_of_empty_ranges():
    inputs, order = scan_inputs(2, 7, 5, 3, 2, 2)
    transposed = [t.transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_() for t in inputs]
    operator = torch.ops.avsmamba.multi_directional_scan.default
    torch.library.opcheck(operator, (*transposed, order, 2, 5))
    torch.library.opcheck(operator, (*inputs, order, 3, 0))
    torch.library.opcheck(operator, (*(t[:0] for t in inputs[:4]), *inputs[4:], order, 0, 7))


def test_compiled_values_and_gradients_are_the_same_for_any_size():
    compiled = torch.compile(multi_directional_scan, fullgraph=True, backend="aot_eager")
    for length in (5, 9, 12):
        inputs, order = leaves(2, length)
        dy = torch.randn(2, 3, 4)
        y, expected = compiled(*inputs, order, (1, 3)), multi_directional_scan(*inputs, order, (1, 3))
        assert torch.equal(y, expected)
        wanted = torch.autograd.grad(expected, inputs, dy)
        for name, g, w in zip(NAMES, torch.autograd.grad(y, inputs, dy), wanted, strict=True):
            assert torch.equal(g, w), name


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "compiled"])
def test_autocast(traced):
    inputs, order = leaves(1, 20, 8, 2, 4, 3)
    scan = multi_directional_scan
    if traced:
        scan = torch.compile(scan, fullgraph=True, backend="aot_eager")
    low = [t.detach().bfloat16() if i < 4 else t for i, t in enumerate(inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        y = scan(*inputs, order)
        # Parameters that are cast beforehand, as autocast's cache would, are taken too.
        assert scan(*inputs[:4], *(t.bfloat16() for t in inputs[4:]), order).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert scan(*inputs, order).dtype == torch.float32
    assert torch.equal(y, multi_directional_scan(*low, order))
    grads = torch.autograd.grad(y.sum(), inputs)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


def test_vmap_says_what_to_do():
    inputs, order = scan_inputs()
    with pytest.raises(RuntimeError, match="put the mapped axis into the batch"):
        torch.vmap(lambda x: multi_directional_scan(x, *inputs[1:], order))(torch.stack([inputs[0]] * 2))


def conv(x, backend="auto"):
    return depthwise_conv(x, torch.ones(x.shape[-1], 1, 4, dtype=x.dtype), causal=True, backend=backend)


def of_one(name):
    """Return the scan as a function of one of its tensors, or the convolution of x; and a value."""
    inputs, order = scan_inputs()
    if name == "conv":
        return conv, inputs[0]
    i = NAMES.index(name)
    return lambda t: multi_directional_scan(*inputs[:i], t, *inputs[i + 1 :], order), inputs[i]


@pytest.mark.parametrize("name", [*NAMES, "conv"])
def test_forward_mode_is_refused(name):
    function, t = of_one(name)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(function, (t,), (torch.ones_like(t),))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivative"):
        function(forward_ad.make_dual(t, torch.ones_like(t)))


@pytest.mark.parametrize("name", ["x", "dt_weight", "conv"])
def test_no_graph_drops_a_tangent(name):
    function, t = of_one(name)
    torch._dynamo.reset()
    derivative = torch.compile(lambda t: torch.func.jvp(function, (t,), (t,))[1], fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="no forward-mode derivative"):
        derivative(t)


@pytest.mark.parametrize("name", ["x", "conv"])
def test_forward_mode_over_the_backward_pass_is_refused(name):
    function, t = of_one(name)
    t = t.requires_grad_()
    y = function(t)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="backward has no forward-mode derivative"):
        torch.autograd.grad(y, t, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


def test_the_torch_backends_have_a_forward_mode_derivative():
    inputs, order = scan_inputs(dtype=torch.float64)
    v = torch.randn_like(inputs[0])
    for run in (lambda x: multi_directional_scan(x, *inputs[1:], order, backend="torch"), lambda x: conv(x, "torch")):
        # Both are linear in x.
        torch.testing.assert_close(torch.func.jvp(run, (inputs[0],), (v,))[1], run(v))


def test_meta_tensors_go_backward_too():
    inputs, order = leaves()
    meta = [t.detach().to("meta").requires_grad_() for t in inputs]
    y = multi_directional_scan(*meta, order.to("meta"), (1, 3))
    for t, g in zip(meta, torch.autograd.grad(y.sum(), meta), strict=True):
        assert g.shape == t.shape and g.device.type == "meta"


def test_tables_made_while_tracing_are_not_kept():
    with FakeTensorMode():
        fake = cross_scan_2d([(3, 17)])
        assert is_order_table(fake), "its content needs no check, which a fake tensor could not bear"
        assert type(fake) is not torch.Tensor and cross_scan_2d([(3, 17)]) is not fake
    graph = torch.compile(lambda x: x + cross_scan_3d(x.shape[0], [(2, 19)], 12), fullgraph=True, backend="aot_eager")
    table = cross_scan_3d(2, [(2, 19)], 12)
    assert torch.equal(graph(torch.zeros(2, 1, 1, dtype=torch.int32))[0], table) and is_order_table(table)
    with FakeTensorMode():
        pass
    table = cross_scan_2d([(3, 17)])
    assert type(table) is torch.Tensor and is_order_table(table) and table.amax() == 50


def test_recomputed_in_the_backward_pass():
    inputs, order = leaves(2, 40, 20, 3, 4, 3)
    runs = []
    for run in (lambda *t: multi_directional_scan(*t, order), None):
        y = checkpoint(runs[0][0], *inputs, use_reentrant=False) if run is None else run(*inputs)
        runs.append((run, y, torch.autograd.grad(y.square().sum(), inputs)))
    assert torch.equal(runs[0][1], runs[1][1])
    assert all(torch.equal(a, b) for a, b in zip(runs[0][2], runs[1][2], strict=True))


def test_the_profiler_knows_the_operator_by_name():
    inputs, order = leaves()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        multi_directional_scan(*inputs, order).sum().backward()
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert counts[FORWARD] == 1 and counts[BACKWARD] == 1


class Number:
    """A float that counts the additions and products it takes part in."""

    count = 0

    def __init__(self, value):
        self.value = float(value)

    def __add__(self, other):
        Number.count += 1
        return Number(self.value + other.value)

    def __mul__(self, other):
        Number.count += 1
        return Number(self.value * other.value)


def numbers(tensor):
    if tensor.ndim == 0:
        return Number(tensor)
    return [numbers(t) for t in tensor]


def values(nested):
    return nested.value if isinstance(nested, Number) else [values(n) for n in nested]


def counted(inputs, order, out, dy=None):
    """Scan a batch of one by hand, or with `dy` run its backward; return (result, operations)."""
    x, dt, B, C, A, D, W, bias = (numbers(t) for t in inputs)
    x, dt, B, C = x[0], dt[0], B[0], C[0]
    y = numbers(torch.zeros(len(x), len(x[0])))
    grads = [numbers(torch.zeros_like(t if i > 3 else t[0])) for i, t in enumerate(inputs)]
    dx, ddt, dB, dC, dA, dD, dW, dbias = grads
    channels, states, rank = len(x[0]), len(B[0][0]), len(dt[0][0])
    Number.count = 0
    for k, steps in enumerate(order.tolist()):
        for e in range(channels):
            h, kept = [Number(0)] * states, []
            for i in steps:
                raw = bias[k][e]
                for r in range(rank):
                    raw = raw + dt[i][k][r] * W[k][e][r]
                delta = Number(math.log1p(math.exp(raw.value)))
                u = delta * x[i][e]
                decay = [Number(math.exp((delta * A[k][e][n]).value)) for n in range(states)]
                before = h
                h = [decay[n] * h[n] + u * B[i][k][n] for n in range(states)]
                kept.append((i, raw, delta, u, decay, before, h))
                if dy is None and i in out:
                    for n in range(states):
                        y[i][e] = y[i][e] + h[n] * C[i][k][n]
                    y[i][e] = y[i][e] + D[k][e] * x[i][e]
            if dy is None:
                continue
            g = [Number(0)] * states
            for i, raw, delta, u, decay, before, h in reversed(kept):
                if i in out:
                    up = Number(dy[0, out.index(i), e])
                    for n in range(states):
                        g[n] = g[n] + up * C[i][k][n]
                        dC[i][k][n] = dC[i][k][n] + up * h[n]
                    dx[i][e] = dx[i][e] + D[k][e] * up
                    dD[k][e] = dD[k][e] + up * x[i][e]
                from_input, ddelta = Number(0), Number(0)
                for n in range(states):
                    dB[i][k][n] = dB[i][k][n] + g[n] * u
                    from_input = from_input + g[n] * B[i][k][n]
                    g[n] = decay[n] * g[n]
                    through = g[n] * before[n]
                    dA[k][e][n] = dA[k][e][n] + through * delta
                    ddelta = ddelta + through * A[k][e][n]
                ddelta = ddelta + from_input * x[i][e]
                dx[i][e] = dx[i][e] + from_input * delta
                draw = ddelta * Number(1 / (1 + math.exp(-raw.value)))
                for r in range(rank):
                    ddt[i][k][r] = ddt[i][k][r] + draw * W[k][e][r]
                    dW[k][e][r] = dW[k][e][r] + draw * dt[i][k][r]
                dbias[k][e] = dbias[k][e] + draw
    result = [values(y)[i] for i in out] if dy is None else [values(g) for g in grads]
    return result, Number.count


def test_flops_are_those_of_the_scan_by_hand():
    inputs, order = leaves(1, 5, 2, 3, 4, 2, dtype=torch.float64)
    dy = torch.randn(1, 2, 2, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        y = multi_directional_scan(*inputs, order, (1, 2))
        grads = torch.autograd.grad(y, inputs, dy)
    counts = {str(k): v for k, v in counter.get_flop_counts()["Global"].items()}
    detached = [t.detach() for t in inputs]
    result, forward = counted(detached, order, [1, 2])
    torch.testing.assert_close(torch.tensor([result], dtype=torch.float64), y)
    result, backward = counted(detached, order, [1, 2], dy)
    for name, got, g in zip(NAMES, result, grads, strict=True):
        expected = torch.tensor(got, dtype=torch.float64).view_as(g)
        torch.testing.assert_close(g, expected, msg=lambda m, n=name: f"{n}: {m}")
    assert counts == {"avsmamba.multi_directional_scan": forward, "avsmamba.multi_directional_scan_backward": backward}


def test_flops_grow_with_the_batch_and_count_on_meta_tensors():
    inputs, order = scan_inputs(3, 5, 2, 3, 4, 2)
    totals = []
    for batch in (1, 3):
        tensors = [t[:batch].to("meta") for t in inputs[:4]] + [t.to("meta") for t in inputs[4:]]
        with FlopCounterMode(display=False) as counter:
            multi_directional_scan(*tensors, order.to("meta"))
        totals.append(counter.get_total_flops())
    assert totals[1] == 3 * totals[0] > 0
