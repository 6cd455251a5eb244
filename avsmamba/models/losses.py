"""Losses on the frames that are labelled: dice (S4 and MS3, Sec. V-B) and binary cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.registry import MODELS


@MODELS.register_module()
class DiceLoss(nn.Module):
    """1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth) for each frame and class, averaged.

    Source: V-Net (Milletari et al., 2016) with plain sums below, as AVSegFormer trains.

    Args:
        loss_weight: factor of the mean.
        smooth: added above and below; it also makes an empty mask a target that can be reached.
    """

    def __init__(self, loss_weight: float = 1.0, smooth: float = 1.0):
        super().__init__()
        self.loss_weight, self.smooth = loss_weight, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of `(F, N, h, w)` logits against `(F, N, h, w)` targets in {0, 1}; zero for F = 0."""
        if not len(logits):
            return logits.sum()
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

    def __init__(self, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of `(F, N, h, w)` logits against `(F, N, h, w)` targets in {0, 1}; zero for F = 0."""
        if not len(logits):
            return logits.sum()
        return self.loss_weight * F.binary_cross_entropy_with_logits(logits.float(), target.float())


def labelled_frames(logits: Tensor, masks: list[Tensor], flags: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Logits and targets of the labelled frames, at the labels' size: one pair for each size of label in the batch.

    Args:
        logits: `(B, T, N, H, W)`, at the (padded) size of the frames.
        masks: B tensors `(T, h_b, w_b)` with h_b <= H and w_b <= W: what padding adds at the right and below is cut.
        flags: B tensors `(T,)` bool, the labelled frames.

    Returns:
        Pairs of `(F, N, h, w)` logits and `(F, N, h, w)` targets.
    """
    groups: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for clip, mask, flag in zip(logits, masks, flags, strict=True):
        h, w = mask.shape[-2:]
        groups.setdefault((h, w), []).append((clip[flag, :, :h, :w], mask[flag].unsqueeze(1)))
    return [(torch.cat([p for p, _ in g]), torch.cat([m for _, m in g])) for g in groups.values()]
