"""Losses against their formulas, and the labelled-frame flags."""

import pytest
import torch

from avsmamba.models.losses import BCELoss, CrossEntropyLoss, DiceLoss, labelled_frames


def test_dice_equals_its_formula():
    logits, target = torch.randn(3, 1, 4, 5), (torch.rand(3, 1, 4, 5) > 0.5).float()
    expected = 0.0
    for z, g in zip(logits, target, strict=True):
        p = 1 / (1 + torch.exp(-z))
        expected += 1 - (2 * (p * g).sum() + 0.5) / (p.sum() + g.sum() + 0.5)
    torch.testing.assert_close(DiceLoss(2.0, smooth=0.5)(logits, target), 2 * expected / 3)


def test_dice_rewards_silence():
    empty = torch.zeros(1, 1, 8, 8)
    loss = DiceLoss()
    assert loss(torch.full_like(empty, -20.0), empty) < 1e-6
    assert loss(torch.full_like(empty, 20.0), empty) > 0.9


def test_bce_equals_its_formula():
    logits, target = torch.randn(2, 3, 4, 5), (torch.rand(2, 3, 4, 5) > 0.5).float()
    p = torch.sigmoid(logits)
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(BCELoss()(logits, target), expected)


@pytest.fixture
def semantic():
    """Logits of five classes, class indices, and the one-hot masks that these stand for."""
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
    flags = [torch.tensor([True, False, False]), torch.tensor([False, True, True])]
    (p0, g0), (p1, g1) = labelled_frames(logits, masks, flags)
    assert torch.equal(p0, logits[0, :1])
    assert g0.shape == (1, 1, 4, 4) and g0.all()
    assert torch.equal(p1, logits[1, 1:, :, :2, :3])
    assert g1.shape == (2, 1, 2, 3)


def test_targets_of_one_class_are_foreground_and_of_more_are_indices():
    masks, flags = [torch.tensor([[[0, 3]], [[2, 1]]], dtype=torch.uint8)], [torch.tensor([True, True])]
    ((_, g),) = labelled_frames(torch.zeros(1, 2, 1, 1, 2), masks, flags)
    assert g.tolist() == [[[[0, 1]]], [[[1, 1]]]]
    ((p, g),) = labelled_frames(torch.zeros(1, 2, 4, 1, 2), masks, flags)
    assert p.shape == (2, 4, 1, 2) and g.tolist() == [[[[0, 3]]], [[[2, 1]]]]
    with pytest.raises(ValueError, match="class index 3, but the model has 3 classes"):
        labelled_frames(torch.zeros(1, 2, 3, 1, 2), masks, flags)
