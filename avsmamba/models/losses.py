"""Losses on the frames that are labelled: dice (S4 and MS3, Sec. V-B), binary cross-entropy (AVSS), cross-entropy.

Logits are `(F, N, h, w)` for N classes. A target is either `(F, N, h, w)` in {0, 1}, or `(F, 1, h, w)` of class
indices, which stand for the one-hot masks of N > 1 classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, limits
from avsmamba.registry import MODELS


@MODELS.register_module()
class DiceLoss(nn.Module):
    """1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth) for each frame and class, averaged.

    Source: V-Net (Milletari et al., 2016) with plain sums below, as AVSegFormer trains.

    Args:
        loss_weight: factor of the mean.
        smooth: added above and below; it also makes an empty mask a target that can be reached.
    """

    @limits(loss_weight=AT_LEAST_0, smooth=AT_LEAST_0)
    def __init__(self, loss_weight: float = 1.0, smooth: float = 1.0):
        super().__init__()
        self.loss_weight, self.smooth = loss_weight, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of `(F, N, h, w)` logits; zero for F = 0."""
        if not len(logits):
            return logits.sum()
        if are_indices(logits, target):
            target = F.one_hot(target[:, 0].long(), logits.shape[1]).movedim(-1, 1)
        p = logits.float().sigmoid().flatten(2)
        g = target.float().flatten(2)
        overlap = 2 * (p * g).sum(-1) + self.smooth
        return self.loss_weight * (1 - overlap / (p.sum(-1) + g.sum(-1) + self.smooth)).mean()


@MODELS.register_module()
class BCELoss(nn.Module):
    """Binary cross-entropy on logits, averaged over frames, classes and pixels.

    Args:
        loss_weight: factor of the mean.
    """

    @limits(loss_weight=AT_LEAST_0)
    def __init__(self, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of `(F, N, h, w)` logits; zero for F = 0."""
        if not len(logits):
            return logits.sum()
        logits = logits.float()
        if are_indices(logits, target):
            # BCE(x, g) = softplus(x) - g x: one-hot targets of 71 classes would take as much memory as the logits.
            true = logits.gather(1, target.long()).sum() / logits.numel()
            return self.loss_weight * (F.softplus(logits).mean() - true)
        return self.loss_weight * F.binary_cross_entropy_with_logits(logits, target.float())


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Cross-entropy of the softmax over classes, averaged over frames and pixels.

    Args:
        loss_weight: factor of the mean.
        background_weight: how much a pixel of class 0 counts in the (weighted) mean, against 1 for any other; most
            pixels are background, and what little the others say of their classes is soon lost.
    """

    @limits(loss_weight=AT_LEAST_0, background_weight=AT_LEAST_0)
    def __init__(self, loss_weight: float = 1.0, background_weight: float = 1.0):
        super().__init__()
        self.loss_weight, self.background_weight = loss_weight, background_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of `(F, N, h, w)` logits against `(F, 1, h, w)` class indices; zero for F = 0.

        Raises:
            ValueError: if N is 1, or the target is no such tensor.
        """
        if not len(logits):
            return logits.sum()
        if not are_indices(logits, target):
            raise ValueError(
                f"CrossEntropyLoss: expected (F, N, h, w) logits of N > 1 classes and (F, 1, h, w) class indices, "
                f"got {tuple(logits.shape)} and {tuple(target.shape)}"
            )
        weight = logits.new_ones(logits.shape[1], dtype=torch.float32)
        weight[0] = self.background_weight
        return self.loss_weight * F.cross_entropy(logits.float(), target[:, 0].long(), weight)


def are_indices(logits: Tensor, target: Tensor) -> bool:
    """Whether a target gives class indices rather than a mask for each class."""
    return logits.shape[1] > 1 and target.shape[1] == 1


def labelled_frames(logits: Tensor, masks: list[Tensor], flags: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Logits and targets of the labelled frames, at the labels' size: one pair for each size of label in the batch.

    Args:
        logits: `(B, T, N, H, W)`, at the (padded) size of the frames.
        masks: B tensors `(T, h_b, w_b)` with h_b <= H and w_b <= W: what padding adds at the right and below is cut.
            For N = 1 foreground is what is not 0, else they hold class indices.
        flags: B tensors `(T,)` bool, the labelled frames.

    Returns:
        Pairs of `(F, N, h, w)` logits and `(F, 1, h, w)` targets.

    Raises:
        ValueError: if a class index is not below N > 1.
    """
    groups: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    num_classes = logits.shape[2]
    for clip, mask, flag in zip(logits, masks, flags, strict=True):
        h, w = mask.shape[-2:]
        target = mask[flag].unsqueeze(1)
        if num_classes == 1:
            target = (target > 0).to(target.dtype)
        elif target.numel() and int(target.max()) >= num_classes:
            raise ValueError(f"gt_masks: class index {int(target.max())}, but the model has {num_classes} classes")
        groups.setdefault((h, w), []).append((clip[flag][..., :h, :w], target))
    return [(torch.cat([p for p, _ in g]), torch.cat([m for _, m in g])) for g in groups.values()]
