"""The convolution after the upsampling, against torch's layers one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from avsmamba.models.baselines.classifier import UpsamplingClassifier
from avsmamba.models.layers import upsampled_conv
from avsmamba.models.layers.upsampled_conv import UpsampledClasses, plain, upsampled_classes


def arguments(n, h, w, a=3, b=2, classes=2, dtype=torch.float64):
    shapes = (n, h, w, a), (b, a, 3, 3), (b,), (classes, b), (classes,)
    return [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 13), st.integers(1, 13)),
    scale=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_size_and_scale(size, scale, bias, seed):
    torch.manual_seed(seed)
    leaves = arguments(*size)[: None if bias else -1]
    given = leaves if bias else [*leaves, None]
    y, expected = UpsampledClasses.apply(*given, scale), plain(*given, scale)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    dy = torch.randn_like(y)
    found, wanted = (torch.autograd.grad(t, leaves, dy) for t in (y, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_gradients_by_differences():
    assert torch.autograd.gradcheck(UpsampledClasses.apply, (*arguments(1, 3, 5), 4))
    assert torch.autograd.gradgradcheck(UpsampledClasses.apply, (*arguments(1, 2, 1, 2), 2))


def test_what_is_kept_for_the_backward_pass_are_the_arguments():
    leaves = arguments(2, 16, 16, 64, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        upsampled_classes(*leaves, 4)
    assert sorted(kept) == sorted(t.numel() for t in leaves)


def used(monkeypatch, *args):
    """Return whether the layers were not run one by one."""
    calls = []
    monkeypatch.setattr(upsampled_conv, "plain", lambda *a: calls.append(a) or plain(*a))
    upsampled_classes(*args)
    return not calls


def test_where_it_is_used(monkeypatch):
    leaves = arguments(1, 8, 8, 64, 4, dtype=torch.float32)
    assert used(monkeypatch, *leaves, 4) and used(monkeypatch, *leaves[:-1], None, 4)
    assert not used(monkeypatch, *leaves, 2)  # too little work
    assert not used(monkeypatch, *arguments(1, 7, 8, 64, 4), 4)
    with FakeTensorMode() as mode:
        assert not used(monkeypatch, *(mode.from_tensor(t) for t in leaves), 4)
    assert not used(monkeypatch, *(t.to("meta") for t in leaves), 4)
    direction = lambda x: upsampled_classes(x, *leaves[1:], 4)  # noqa: E731
    torch.func.vmap(direction)(leaves[0][None])
    torch.func.jvp(direction, (leaves[0].detach(),), (torch.ones_like(leaves[0]),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision(dtype):
    """No worse than torch's layers in the same dtype, in inference and training."""
    torch.manual_seed(0)
    leaves = [t.detach().to(dtype).requires_grad_() for t in arguments(2, 16, 20, 64, 8)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    dy = torch.randn(2, 2, 64, 80).to(dtype)
    results = []
    for run, these in ((upsampled_classes, leaves), (plain, leaves), (plain, exact)):
        y = run(*these, 4)
        results.append([y, *torch.autograd.grad(y, these, dy.to(y.dtype))])
        assert all(t.dtype == these[0].dtype for t in results[-1])
    for ours, layers, true in zip(*results, strict=True):
        assert (ours - true).abs().max() <= 2 * (layers - true).abs().max() + 1e-6 * true.abs().max()


def test_other_parts_of_the_network_may_be_frozen():
    leaves = arguments(1, 8, 8, 64, 4)
    expected = torch.autograd.grad(plain(*leaves, 4).sum(), leaves)
    for i, leaf in enumerate(leaves):
        given = [t if j == i else t.detach() for j, t in enumerate(leaves)]
        torch.testing.assert_close(torch.autograd.grad(upsampled_classes(*given, 4).sum(), leaf)[0], expected[i])


@pytest.mark.parametrize(("scale", "bias"), [(4, False), (2, True)])
def test_the_baselines_classifier(monkeypatch, scale, bias):
    module = UpsamplingClassifier(128, (128, 8), 3, scale, bias).double()
    features = torch.randn(2, 3, 8, 9, 128, dtype=torch.float64)
    y = module(features)
    x = module.conv_in(features.flatten(0, 1).permute(0, 3, 1, 2))
    x = torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    expected = module.classifier(module.conv_out(x).relu()).unflatten(0, (2, 3))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert y.grad_fn.next_functions[0][0].name() == "UpsampledClassesBackward"
