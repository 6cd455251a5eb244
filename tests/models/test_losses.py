"""Losses against their formulas, and the labelled-frame flags."""

import pytest
import torch

from avsmamba.models.losses import BCELoss, DiceLoss, labelled_frames


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


@pytest.mark.parametrize("loss", [DiceLoss(), BCELoss()])
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
