"""The MLP of one number as a curve, against its layers one by one."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from avsmamba.models.layers import curve as module
from avsmamba.models.layers.curve import CurveMLP, Table, Weights, build_curve


def weights(h0, h1, o, dtype=torch.float64, bias=1.0):
    shapes = (h0, 1), (h0,), (h1, h0), (h1,), (o, h1), (o,)
    made = [torch.randn(s, dtype=torch.float64) * (bias if len(s) == 1 else 1) for s in shapes]
    return Weights(*(t.to(dtype).requires_grad_() for t in made))


def as64(tensors):
    return Weights(*(t.detach().double().requires_grad_() for t in tensors))


def worst(found, expected):
    """Return the error over the greatest value, or over 1 where all values cancel to almost nothing."""
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1.0)).item()


@pytest.fixture
def mlp():
    return CurveMLP((210, 200, 3))


@pytest.fixture
def paths(monkeypatch):
    """Record which path each call takes."""
    taken = []
    for owner, name, word in (
        (module.Curve, "__call__", "curve"),
        (Table, "apply", "table"),
        (CurveMLP, "plain", "plain"),
    ):
        run = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, r=run, w=word: taken.append(w) or r(*a))
    return taken


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.sampled_from([0.0, 0.3, 3.0]),
    odd=st.sampled_from(["", "flat", "twice", "dead"]),
    wide=st.sampled_from([0.1, 3.0, 1e4]),
    seed=st.integers(0, 999),
)
def test_any_weights(sizes, bias, odd, wide, seed):
    """Units that do not bend, bends that coincide, units that are nothing: value and gradients."""
    torch.manual_seed(seed)
    w = weights(*sizes, 4, bias=bias)
    with torch.no_grad():
        if odd == "flat":
            w.a[0], w.a[-1] = 0, 0
        elif odd == "twice":
            w.a[0], w.b[0] = 2 * w.a[-1], 2 * w.b[-1]
        elif odd == "dead":
            w.w2[0], w.c[0] = 0, 0
    m = (torch.randn(50, dtype=torch.float64) * wide).requires_grad_()
    expected = w.plain(m[:, None])
    for dtype, least in ((torch.float64, 1e-11), (torch.float32, 3e-6)):
        with torch.no_grad():
            assert worst(build_curve(w, dtype)(m.to(dtype)), w.plain(m.to(dtype).double()[:, None])) < least
    y = Table.apply(m, *w)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10 * wide)
    dy = torch.randn_like(y)
    for found, wanted in zip(*(torch.autograd.grad(t, (m, *w), dy) for t in (y, expected)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * wide)


def test_gradients_by_differences():
    w, m = weights(7, 6, 5), torch.randn(40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Table.apply, (m, *w))
    assert torch.autograd.gradgradcheck(Table.apply, (m[:5], *w))


def test_the_authors_sizes_in_float64_and_float32():
    """Training against the layers' own gradients; in float32 ours are nearer to the truth than the layers'."""
    layers = CurveMLP((2048, 2048, 256))
    w = Weights(*(p for layer in layers for p in (layer.weight, layer.bias)))
    m = (4 * torch.randn(1100)).requires_grad_()
    dy, results = torch.randn(1100, 256), []
    for run, leaves, x in (
        (lambda x, *w: Weights(*w).plain(x[:, None]), as64(w), m.detach().double().requires_grad_()),
        (Table.apply, as64(w), m.detach().double().requires_grad_()),
        (lambda x, *w: Weights(*w).plain(x[:, None]), w, m),
        (Table.apply, w, m),
    ):
        y = run(x, *leaves)
        results.append([y, *torch.autograd.grad(y, (x, *leaves), dy.to(y.dtype))])
    for true, table64, plain32, table32 in zip(*results, strict=True):
        assert worst(table64, true) < 1e-9
        assert worst(table32, true) < max(1e-6, 1.5 * worst(plain32, true))
    with torch.no_grad():
        assert worst(build_curve(w, torch.float32)(m), results[0][0]) < 3e-7


def test_infinite_numbers_and_nan(mlp):
    x = torch.linspace(-2, 2, 2000)
    x[:3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    one_way = CurveMLP((210, 200, 3))  # nothing is subtracted: infinity stays infinity
    with torch.no_grad():
        for layer in one_way:
            layer.weight.abs_().add_(0.01)
        for layers in (mlp, one_way):
            found, expected = layers(x[:, None]), layers.plain(x[:, None])
            assert layers._kept is not None
            torch.testing.assert_close(found, expected, equal_nan=True)
        assert expected[0].isposinf().all() and expected[1].isfinite().all() and found[2].isnan().all()
        mlp[1].weight[5, 7] = torch.nan
        assert mlp(x[:, None]).isnan().all()
        assert mlp._kept[1] is None
    assert mlp(x[:, None]).isnan().all()  # in training


def test_a_weight_that_is_not_a_number_reaches_the_loss_in_training(mlp, paths):
    with torch.no_grad():
        mlp[1].weight[5, 7] = torch.nan
    assert mlp(torch.randn(2000, 1)).isnan().all() and paths == ["plain"]


def test_the_table_is_built_once_and_again_when_weights_change(mlp, monkeypatch):
    built = []
    monkeypatch.setattr(module, "build_curve", lambda *a: built.append(1) or build_curve(*a))
    m = torch.randn(2000, 1)

    @torch.no_grad()
    def check(count):
        torch.testing.assert_close(mlp(m), mlp.plain(m), rtol=1e-5, atol=1e-6)
        assert len(built) == count

    check(1)
    check(1)
    with torch.no_grad():
        mlp[1].weight[0, 0] += 5
    check(2)
    mlp.load_state_dict({k: v + 0.1 for k, v in mlp.state_dict().items()})
    check(3)
    mlp[2].bias = nn.Parameter(torch.ones(3))
    check(4)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=0.1)
    mlp.plain(m).sum().backward()
    optimizer.step()
    check(5)
    mlp[0].weight.data.copy_(torch.randn(210, 1))
    mlp.eval()
    check(6)
    mlp.double().float()
    check(7)
    assert set(mlp.state_dict()) == {f"{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    buffer = io.BytesIO()
    torch.save(mlp, buffer)
    for twin in (copy.deepcopy(mlp), pickle.loads(pickle.dumps(mlp))):
        assert twin._kept is None and mlp._kept is not None
    assert buffer.tell() < 300_000  # 43,000 numbers and no table


def test_where_it_is_used(mlp, paths):
    m = torch.randn(1, 50, 40, 1)

    def way(run):
        paths.clear()
        run()
        return paths[0]

    assert way(lambda: mlp(m)) == "table"
    assert way(torch.no_grad()(lambda: mlp(m))) == "curve"
    assert way(torch.inference_mode()(lambda: mlp(m))) == "curve"
    assert way(lambda: mlp(m[:, :20])) == "plain"  # too few
    assert way(lambda: CurveMLP((9, 9, 3))(m)) == "plain"
    assert way(lambda: CurveMLP((210, 3))(m)) == "plain"
    assert way(lambda: copy.deepcopy(mlp).bfloat16()(m.bfloat16())) == "plain"  # training
    assert way(lambda: torch.func.vmap(mlp)(m)) == "plain"
    assert way(lambda: torch.func.jvp(mlp, (m,), (m,))) == "plain"
    with torch.no_grad():
        assert way(lambda: torch.jit.trace(mlp, m, check_trace=False)) == "plain"
        assert way(lambda: torch.export.export(mlp, (m,))) == "plain"
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert way(lambda: mlp(torch.empty(1, 50, 40, 1))) == "plain"
        with FlopCounterMode(display=False) as counter:
            assert way(lambda: mlp(m)) == "plain"
        assert counter.get_total_flops() == 2 * 2000 * (210 + 210 * 200 + 200 * 3)
        assert way(lambda: copy.deepcopy(mlp).to("meta")(m.to("meta"))) == "plain"
        with mlp[1].register_forward_hook(lambda *a: None):
            assert way(lambda: mlp(m)) == "plain"
    frozen = copy.deepcopy(mlp).requires_grad_(False)
    assert way(lambda: frozen(m)) == "curve"
    assert way(lambda: frozen(m.clone().requires_grad_())) == "table"


@pytest.mark.parametrize("grad", [False, True])
def test_dtypes_under_autocast_and_without(mlp, grad):
    m = torch.randn(2000, 1)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        for x in (m, m.bfloat16()):
            assert mlp(x).dtype == mlp.plain(x).dtype == torch.bfloat16
    with torch.set_grad_enabled(grad):
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            other = copy.deepcopy(mlp).to(dtype)
            y = other(m.to(dtype))
            assert y.dtype == dtype
            exact = copy.deepcopy(other).double().plain(m.to(dtype).double())
            assert worst(y, exact) < {torch.float64: 1e-12}.get(dtype, 2e-2)
    with pytest.raises(RuntimeError, match="dtype"):
        mlp(m.double())


def test_some_weights_may_be_frozen():
    w, m = weights(30, 20, 4), torch.randn(200, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(w.plain(m[:, None]).square().sum(), (m, *w))
    for i, leaf in enumerate((m, *w)):
        given = [t if j == i else t.detach() for j, t in enumerate((m, *w))]
        (found,) = torch.autograd.grad(Table.apply(*given).square().sum(), leaf)
        torch.testing.assert_close(found, expected[i], rtol=1e-10, atol=1e-10)


def test_recomputed_in_the_backward_pass(mlp, paths):
    m = torch.randn(2000, 1, requires_grad=True)
    results = []
    for run in (mlp, lambda x: checkpoint(mlp, x, use_reentrant=False)):
        y = run(m)
        results.append([y, *torch.autograd.grad(y.square().sum(), (m, *mlp.parameters()))])
    assert set(paths) == {"table"} and len(paths) == 3
    for plain, again in zip(*results, strict=True):
        assert torch.equal(plain, again)


def test_what_is_kept_does_not_grow_with_the_widths():
    m, kept = torch.randn(5000, 1), []
    for width in (200, 400):
        layers = CurveMLP((width, width, 3))
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=seen: s.append(t.nbytes) or t, lambda t: t):
            layers(m)
        kept.append(sum(seen) - sum(p.nbytes for p in layers.parameters()))
    assert kept[1] < 1.2 * kept[0] < 5000 * 60


def test_a_curve_of_too_many_knots_is_not_made(mlp, monkeypatch):
    monkeypatch.setattr(module, "MOST_KNOTS", 0)
    with torch.no_grad():
        m = torch.randn(2000, 1)
        assert torch.equal(mlp(m), mlp.plain(m)) and mlp._kept[1] is None
