"""Losses against their formulas, and the labelled-frame flags."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from avsmamba.models.losses import BCELoss, CrossEntropyLoss, DiceLoss, StructureLoss, labelled_frames


@pytest.fixture
def random():
    """Return logits of three frames and masks that are not empty."""
    return torch.randn(3, 1, 4, 5, requires_grad=True), (torch.rand(3, 1, 4, 5) > 0.5).float()


PLAIN = {"squared": False, "smooth": 1.0, "smooth_numerator": True}  # of the small models


def test_dice_equals_its_formula(random):
    expected = 0.0
    for z, g in zip(*random, strict=True):
        p = 1 / (1 + torch.exp(-z))
        expected += 1 - 2 * (p * g).sum() / ((p * p).sum() + (g * g).sum() + 0.5)
    torch.testing.assert_close(DiceLoss(2.0, smooth=0.5)(*random), 2 * expected / 3)
    assert DiceLoss().smooth == 0.002


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("above", [True, False])
def test_options_of_dice(random, squared, above):
    logits, g = random
    p = logits.sigmoid().double()
    sizes = (p**2 + g if squared else p + g).sum((1, 2, 3))
    expected = 1 - (2 * (p * g).sum((1, 2, 3)) + (0.5 if above else 0)) / (sizes + 0.5)
    loss = DiceLoss(squared=squared, smooth=0.5, smooth_numerator=above)
    torch.testing.assert_close(loss(*random).double(), expected.mean())


def test_the_small_models_dice_keeps_its_bits(random):
    """Models are shipped that were trained with it: their training can be repeated."""
    logits, target = random
    p, g = logits.sigmoid().flatten(2), target.flatten(2)
    expected = 1.0 * (1 - (2 * (p * g).sum(-1) + 1.0) / (p.sum(-1) + g.sum(-1) + 1.0)).mean()
    value = DiceLoss(**PLAIN)(logits, target)
    assert torch.equal(value, expected)
    assert torch.equal(*(torch.autograd.grad(v, logits)[0] for v in (value, expected)))


def test_silence_costs_one_and_teaches_nothing():
    empty, random = torch.zeros(2, 1, 8, 8), torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = DiceLoss()(random, empty)
    assert loss == 1
    assert not torch.autograd.grad(loss, random)[0].any()
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    half = torch.stack([empty[0], torch.ones(1, 8, 8)])
    loss = DiceLoss()(logits, half)
    torch.testing.assert_close(loss, (1 + DiceLoss()(logits[1:], half[1:])) / 2)


def test_dice_with_smooth_above_rewards_silence():
    empty = torch.zeros(1, 1, 8, 8)
    loss = DiceLoss(**PLAIN)
    assert loss(torch.full_like(empty, -20.0), empty) < 1e-6
    assert loss(torch.full_like(empty, 20.0), empty) > 0.9
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    assert (torch.autograd.grad(loss(logits, empty), logits)[0] > 0).all()


def test_bce_equals_its_formula():
    logits, target = torch.randn(2, 3, 4, 5), (torch.rand(2, 3, 4, 5) > 0.5).float()
    p = torch.sigmoid(logits)
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(BCELoss()(logits, target), expected)


@pytest.fixture
def semantic():
    """Return logits of five classes, class indices, and the one-hot masks that these represent."""
    logits = torch.randn(3, 5, 4, 6, requires_grad=True)
    indices = torch.randint(0, 5, (3, 1, 4, 6), dtype=torch.uint8)
    return logits, indices, torch.stack([indices[:, 0] == c for c in range(5)], 1).float()


@pytest.mark.parametrize("loss", [DiceLoss(2.0), BCELoss(3.0)])
def test_class_indices_equal_one_hot_masks(loss, semantic):
    logits, indices, one_hot = semantic
    value, expected = loss(logits, indices), loss(logits, one_hot)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, logits), torch.autograd.grad(expected, logits))


def test_bce_on_indices_is_finite_where_it_is_sure():
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    assert BCELoss()(logits, torch.zeros(1, 1, 1, 1)) == 0
    assert BCELoss()(logits, torch.ones(1, 1, 1, 1)) == 1e4


def test_cross_entropy_equals_its_formula(semantic):
    logits, indices, one_hot = semantic
    p = torch.softmax(logits, 1)
    torch.testing.assert_close(CrossEntropyLoss(2.0)(logits, indices), -2 * (one_hot * p.log()).sum(1).mean())


def test_the_background_may_count_less(semantic):
    logits, indices, one_hot = semantic
    weight = torch.where(indices[:, 0] == 0, 0.25, 1.0)
    nll = -(one_hot * torch.log_softmax(logits, 1)).sum(1)
    value = CrossEntropyLoss(background_weight=0.25)(logits, indices)
    torch.testing.assert_close(value, (weight * nll).sum() / weight.sum())


@pytest.mark.parametrize("logits, target", [((2, 1, 3, 3), (2, 1, 3, 3)), ((2, 4, 3, 3), (2, 4, 3, 3))])
def test_cross_entropy_needs_classes(logits, target):
    with pytest.raises(ValueError, match="CrossEntropyLoss: expected"):
        CrossEntropyLoss()(torch.zeros(logits), torch.zeros(target))


@pytest.mark.parametrize("loss", [DiceLoss(), BCELoss(), CrossEntropyLoss()])
def test_no_labelled_frame_is_no_loss_and_still_a_graph(loss):
    logits = torch.randn(0, 1, 4, 5, requires_grad=True)
    value = loss(logits, torch.zeros(0, 1, 4, 5))
    assert value == 0
    value.backward()


def test_only_labelled_frames_count_and_padding_is_cut():
    logits = torch.arange(2 * 3 * 1 * 4 * 4).float().view(2, 3, 1, 4, 4)
    masks = [torch.ones(3, 4, 4), torch.zeros(3, 2, 3)]
    (p0, g0), (p1, g1) = labelled_frames(logits, masks, [[0], [1, 2]])
    assert torch.equal(p0, logits[0, :1])
    assert g0.shape == (1, 1, 4, 4) and g0.all()
    assert torch.equal(p1, logits[1, 1:, :, :2, :3])
    assert g1.shape == (2, 1, 2, 3)


@pytest.mark.parametrize("labelled", [[[0, 1, 2, 3], [0, 1, 2, 3]], [[0, 2, 3], [1]], [[], [3]], [[0, 1, 2, 3], []]])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_labelled_frames_are_those_of_the_flags(labelled, num_classes):
    logits = torch.randn(2, 4, num_classes, 5, 6)
    masks = [torch.randint(0, num_classes + (num_classes == 1), (4, 5, 6), dtype=torch.uint8) for _ in logits]
    flags = torch.zeros(2, 4, dtype=torch.bool)
    for flag, places in zip(flags, labelled, strict=True):
        flag[places] = True
    ((p, g),) = labelled_frames(logits, masks, labelled)
    assert torch.equal(p, logits[flags])
    assert torch.equal(g[:, 0], torch.stack(masks)[flags])


def test_where_all_frames_are_labelled_logits_are_not_copied():
    logits = torch.randn(2, 3, 1, 4, 4)
    ((p, _),) = labelled_frames(logits, [torch.ones(3, 4, 4)] * 2, [[0, 1, 2]] * 2)
    assert p.data_ptr() == logits.data_ptr()


def test_no_labelled_frame_in_a_batch_keeps_the_graph():
    logits = torch.randn(2, 3, 1, 4, 4, requires_grad=True)
    pairs = labelled_frames(logits, [torch.ones(3, 4, 4)] * 2, [[], []])
    sum(DiceLoss()(p, g) for p, g in pairs).backward()
    assert not logits.grad.any()


def test_targets_of_one_class_are_foreground_and_of_more_are_indices():
    masks, labelled = [torch.tensor([[[0, 3]], [[2, 1]]], dtype=torch.uint8)], [[0, 1]]
    ((_, g),) = labelled_frames(torch.zeros(1, 2, 1, 1, 2), masks, labelled)
    assert g.tolist() == [[[[0, 1]]], [[[1, 1]]]]
    ((p, g),) = labelled_frames(torch.zeros(1, 2, 4, 1, 2), masks, labelled)
    assert p.shape == (2, 4, 1, 2) and g.tolist() == [[[[0, 3]]], [[[2, 1]]]]
    for places in ([0, 1], [0]):
        with pytest.raises(ValueError, match="class index 3, but the model has 3 classes"):
            labelled_frames(torch.zeros(1, 2, 3, 1, 2), masks, [places])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("num_classes, losses", [(1, [DiceLoss, BCELoss]), (5, [DiceLoss, BCELoss, CrossEntropyLoss])])
def test_nothing_waits_for_the_device(device, num_classes, losses):
    """On fake tensors an operation that needs a value on the host raises."""
    with FakeTensorMode():
        logits = torch.empty(2, 4, num_classes, 8, 8, device=device, requires_grad=True)
        masks = [torch.empty(4, *size, dtype=torch.uint8, device=device) for size in ((8, 8), (6, 8))]
        for labelled in ([[0, 2], [0, 1, 2, 3]], [[0], [1]]):
            for p, g in labelled_frames(logits, masks, labelled):
                for loss in losses:
                    value = loss()(p, g)
                    assert value.device.type == device and value.requires_grad


def slow_structure(logits, masks, window, weighted_bce, smoothing=0.001):
    """Compute the structure loss pixel by pixel."""
    total, radius = 0.0, window // 2
    for x, g in zip(logits.double()[:, 0], masks.double()[:, 0], strict=True):
        h, w = g.shape
        weights, costs = torch.zeros(h, w).double(), torch.zeros(h, w).double()
        for i in range(h):
            for j in range(w):
                near = g[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1]
                weights[i, j] = 1 + 5 * (near.sum() / window**2 - g[i, j]).abs()
                y, p = g[i, j] * (1 - smoothing) + smoothing / 2, 1 / (1 + torch.exp(-x[i, j]))
                costs[i, j] = -(y * p.log() + (1 - y) * (1 - p).log())
        total += (weights * costs).sum() / weights.sum() if weighted_bce else costs.mean()
        p = x.sigmoid()
        overlap = (weights * p * g).sum()
        total += 1 - (overlap + 1) / ((weights * (p + g)).sum() - overlap + 1)
    return total / len(logits)


@pytest.mark.parametrize("weighted_bce", [False, True])
@pytest.mark.parametrize("window", [3, 31])
def test_structure_loss_equals_its_formula(window, weighted_bce):
    logits, g = torch.randn(2, 1, 9, 6), torch.zeros(2, 1, 9, 6)
    g[0, :, 2:6, 1:4] = 1
    loss = StructureLoss(2.0, window=window, weighted_bce=weighted_bce)(logits, g)
    torch.testing.assert_close(loss.double(), 2 * slow_structure(logits, g, window, weighted_bce))


def test_structure_loss_rewards_the_mask_and_refuses_what_it_cannot_read():
    g = torch.zeros(1, 1, 16, 16)
    g[..., 4:12, 4:12] = 1
    good, bad = (StructureLoss()(x, g) for x in (20 * (2 * g - 1), 20 * (1 - 2 * g)))
    assert 0 < good < 0.02 < 1 < bad
    assert StructureLoss()(torch.randn(0, 1, 4, 4, requires_grad=True), torch.zeros(0, 1, 4, 4)) == 0
    with pytest.raises(ValueError, match="a mask for each of 3 classes, got class indices"):
        StructureLoss()(torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="window: expected an odd number, got 4"):
        StructureLoss(window=4)
