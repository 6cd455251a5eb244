"""AudioQueryHead: the authors' layers, the small head, options, and that shortcuts change no number."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avsmamba.models import AudioQueryHead
from avsmamba.models.layers import curve, upsampled_conv
from tests.models.conftest import assert_every_parameter_learns

SMALL = {"mlp_dims": (8,), "hidden_dims": (), "classifier_bias": True}
# Of mlp.layers.{0,1,2} and fc.{0,2,4} in the authors' file.
RELEASED = [(2048, 1, 1, 1), (2048,), (2048, 2048, 1, 1), (2048,), (256, 2048, 1, 1), (256,), (128, 256, 3, 3), (128,),
            (32, 128, 3, 3), (32,), (1, 32, 1, 1)]  # fmt: skip


def inputs(b, t, h, w, c, dtype=torch.float32):
    return torch.randn(b, t, 1, c, dtype=dtype), torch.randn(b, t, h, w, c, dtype=dtype)


def written_out(head, query, features):
    """Run the head by its description, layer by layer, with 1 x 1 convolutions."""
    maps = features.flatten(0, 1).permute(0, 3, 1, 2)
    x = (maps * query.flatten(0, 1).transpose(1, 2)[..., None]).sum(1, keepdim=True)
    for i, layer in enumerate(head.mlp):
        x = F.conv2d(F.relu(x) if i else x, layer.weight[:, :, None, None], layer.bias)
    x = F.conv2d(x + maps, head.hidden[0].weight, head.hidden[0].bias, padding=1)
    x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    x = F.relu(F.conv2d(x, head.hidden[1].weight, head.hidden[1].bias, padding=1))
    x = F.conv2d(x, head.classifier.weight[:, :, None, None], head.classifier.bias)
    return x.unflatten(0, features.shape[:2])


def test_the_defaults_are_the_authors_head():
    head = AudioQueryHead()
    assert [tuple(p.shape) for p in head.parameters()] == [
        s[:2] if s[2:] == (1, 1) else s for s in RELEASED
    ]  # linear layers replace the 1 x 1 convolutions
    count = sum(p.numel() for p in head.parameters())
    assert count == sum(torch.Size(s).numel() for s in RELEASED) and round(count / 1e6, 2) == 5.06
    assert list(head.state_dict()) == [
        *(f"mlp.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")),
        *(f"hidden.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")),
        "classifier.weight",
    ]
    assert AudioQueryHead(num_classes=71).classifier.weight.shape == (71, 32)


@pytest.mark.parametrize("classes", [1, 71])
@pytest.mark.parametrize("grad", [False, True])
def test_shortcuts_agree_with_the_layers(monkeypatch, classes, grad):
    """Inference and training with both shortcuts against the layers one by one, in float64."""
    used = []
    for module, name in ((curve, "build_curve"), (curve.Table, "apply"), (upsampled_conv.UpsampledClasses, "apply")):
        run = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, r=run, n=name, m=module: used.append((m, n)) or r(*a))
    head = AudioQueryHead(24, classes, mlp_dims=(300, 250), hidden_dims=(64, 5)).double()
    query, features = (t.requires_grad_() for t in inputs(2, 3, 18, 14, 24, torch.float64))
    with torch.set_grad_enabled(grad):
        out = head(query, features)
    expected = written_out(head, query, features)
    assert out.logits.shape == (2, 3, classes, 72, 56) and out.intermediate.shape == (2, 3, 1, 18, 14)
    torch.testing.assert_close(out.logits, expected, rtol=1e-11, atol=1e-11)
    assert len(used) == 2
    if grad:
        dy, leaves = torch.randn_like(expected), [query, features, *head.parameters()]
        found, wanted = (torch.autograd.grad(y, leaves, dy) for y in (out.logits, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_every_parameter_of_the_authors_head_learns():
    head = AudioQueryHead(8, num_classes=3, mlp_dims=(6, 7), hidden_dims=(6, 5)).double()
    query, features = inputs(2, 3, 4, 5, 8, torch.float64)
    out = head(query, features)
    torch.testing.assert_close(out.logits, written_out(head, query, features))
    assert_every_parameter_learns(head, out.logits)


def test_the_small_head_is_a_linear_layer_twice_and_its_weights_are_drawn_in_that_order():
    torch.manual_seed(3)
    mlp_in, mlp_out, classifier = nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, 4)
    torch.manual_seed(3)
    head = AudioQueryHead(8, 4, **SMALL)
    query, features = inputs(2, 3, 20, 30, 8)
    intermediate = torch.einsum("btqc,bthwc->bthwq", query, features)
    expected = classifier(mlp_out(F.relu(mlp_in(intermediate))) + features).movedim(-1, 2)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert torch.equal(head(query, features).logits, expected)


@pytest.mark.parametrize("scaled", [False, True])
def test_it_multiplies_query_and_features(scaled):
    head = AudioQueryHead(8, num_classes=3, scaled=scaled, **SMALL).double()
    query, features = inputs(2, 3, 4, 5, 8, torch.float64)
    out = head(query, features)
    assert out.logits.shape == (2, 3, 3, 4, 5)
    assert out.intermediate.shape == (2, 3, 1, 4, 5)
    expected = (query[1, 2, 0] * features[1, 2, 3, 4]).sum() / (8**0.5 if scaled else 1)
    torch.testing.assert_close(out.intermediate[1, 2, 0, 3, 4], expected)
    assert_every_parameter_learns(head, out.logits)


def test_without_residual_it_sees_the_intermediate_mask_only():
    head = AudioQueryHead(8, residual=False, **SMALL)
    query, features = torch.zeros(1, 1, 1, 8), torch.randn(1, 1, 4, 5, 8)
    logits = head(query, features).logits
    assert torch.allclose(logits, logits[..., :1, :1].expand_as(logits))


@pytest.mark.parametrize("bounded", [False, True])
def test_bounded_logits_do_not_grow_with_the_product(bounded):
    head = AudioQueryHead(8, num_classes=4, bounded=bounded, **SMALL).double()
    query, features = inputs(1, 2, 4, 5, 8, torch.float64)
    out = head(query, features)
    many = head(1000 * query, features)
    torch.testing.assert_close(many.intermediate, 1000 * out.intermediate)
    assert ((many.logits - out.logits).abs().max() < 2) == bounded
    assert_every_parameter_learns(head, out.logits)


@pytest.mark.parametrize("add_query", [False, True])
def test_with_the_query_added_it_hears_where_nothing_is_seen(add_query):
    head = AudioQueryHead(8, num_classes=4, add_query=add_query, **SMALL)
    dark = torch.zeros(1, 2, 4, 5, 8)  # the product is zero for every query
    first, second = (head(torch.randn(1, 2, 1, 8), dark).logits for _ in range(2))
    assert (not torch.equal(first, second)) == add_query
    assert torch.equal(first, first[..., :1, :1].expand_as(first))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mlp_dims": []}, "mlp_dims: expected one width or more"),
        ({"mlp_dims": [8, 0]}, r"mlp_dims: expected at least 1, got \[8, 0\]"),
        ({"hidden_dims": [8]}, "hidden_dims: expected two numbers of channels or none"),
        ({"hidden_dims": [8, -1]}, "hidden_dims: expected at least 1"),
        ({"num_classes": 0}, "num_classes: expected at least 1"),
        ({"embed_dims": 0}, "embed_dims: expected at least 1"),
    ],
)
def test_widths_that_do_not_fit_are_named(options, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        AudioQueryHead(**options)


def test_it_is_exported_for_any_size():
    head = AudioQueryHead(8, num_classes=2, mlp_dims=(6, 5), hidden_dims=(6, 4)).eval()
    height, width = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    program = torch.export.export(head, inputs(2, 3, 4, 6, 8), dynamic_shapes=({}, {2: height, 3: width}))
    query, features = inputs(2, 3, 9, 7, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(query, features).logits, head(query, features).logits)


def test_under_autocast_it_gives_what_the_layers_would_give():
    head = AudioQueryHead(32, 2, mlp_dims=(300, 250), hidden_dims=(64, 16))
    query, features = inputs(1, 2, 24, 24, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = written_out(head, query, features)
        training = head(query, features).logits
        with torch.no_grad():
            inference = head(query, features).logits
    exact = written_out(head, query, features)
    assert training.dtype == inference.dtype == expected.dtype == torch.bfloat16
    most = (expected - exact).abs().max()
    assert (training - exact).abs().max() < 2 * most and (inference - exact).abs().max() < 2 * most
    training.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in head.parameters())
