"""Losses on the frames that are labelled: dice (S4 and MS3, Sec. V-B), cross-entropy (AVSS), binary cross-entropy.

Logits are `(F, N, h, w)` for N classes. A target is either `(F, N, h, w)` in {0, 1}, or `(F, 1, h, w)` of class
indices, which represent the one-hot masks of N > 1 classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from avsmamba.limits import AT_LEAST_0, limits
from avsmamba.registry import MODELS


@MODELS.register_module()
class DiceLoss(nn.Module):
    """1 - 2 sum(p g) / (sum(p^2) + sum(g^2) + smooth) for each frame and class, averaged.

    Source: the dice loss of Sec. V-B in the form of V-Net (Milletari et al., 2016), as AVS-Mamba's authors and
    AVSegFormer train. A silent frame (empty mask) costs 1 for any prediction and has no gradient: it counts in the
    mean, but silence is learned from other frames alone. With `squared: false`, `smooth: 1.0` and `smooth_numerator:
    true` a silent frame has a gradient and costs 0 where p is 0: the model learns to mark nothing.

    Args:
        loss_weight: factor of the mean.
        squared: whether the denominator sums squares; false: p and g themselves.
        smooth: added to the denominator; it keeps two empty masks from 0 / 0.
        smooth_numerator: add `smooth` to the numerator too: an empty mask is then a target that can be reached.
    """

    @limits(loss_weight=AT_LEAST_0, smooth=AT_LEAST_0)
    def __init__(
        self, loss_weight: float = 1.0, squared: bool = True, smooth: float = 0.002, smooth_numerator: bool = False
    ):
        super().__init__()
        self.loss_weight, self.squared = loss_weight, squared
        self.smooth, self.smooth_numerator = smooth, smooth_numerator

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of `(F, N, h, w)` logits; zero for F = 0."""
        if not len(logits):
            return logits.sum()
        if are_indices(logits, target):
            classes = torch.arange(logits.shape[1], device=target.device)
            target = target == classes.view(-1, 1, 1)
        p = logits.float().sigmoid().flatten(2)
        g = target.float().flatten(2)
        overlap = 2 * (p * g).sum(-1)
        if self.smooth_numerator:
            overlap = overlap + self.smooth
        sizes = p.square().sum(-1) + g.square().sum(-1) if self.squared else p.sum(-1) + g.sum(-1)
        return self.loss_weight * (1 - overlap / (sizes + self.smooth)).mean()


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
        """Compute the loss of `(F, N, h, w)` logits; zero for F = 0."""
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

    Source: AVS-Mamba's authors train AVSS with it; the paper (Sec. V-B) calls it binary cross-entropy.

    Args:
        loss_weight: factor of the mean.
        background_weight: weight of a pixel of class 0 in the mean, against 1 for any other. Most pixels are
            background; with equal weights they dominate the gradient.
    """

    @limits(loss_weight=AT_LEAST_0, background_weight=AT_LEAST_0)
    def __init__(self, loss_weight: float = 1.0, background_weight: float = 1.0):
        super().__init__()
        self.loss_weight, self.background_weight = loss_weight, background_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of `(F, N, h, w)` logits against `(F, 1, h, w)` class indices; zero for F = 0.

        Raises:
            ValueError: if N is 1, or the target has another shape.
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
    """Return whether a target holds class indices rather than a mask for each class."""
    return logits.shape[1] > 1 and target.shape[1] == 1


def labelled_frames(
    logits: Tensor, masks: list[Tensor], labelled: Sequence[Sequence[int]]
) -> list[tuple[Tensor, Tensor]]:
    """Return logits and targets of the labelled frames, at the labels' size, in one pair for each size in the batch.

    Frames are slices: indexing by a mask of flags would synchronise the device with the host. If all frames of all
    clips are labelled at the frames' size, nothing is copied.

    Args:
        logits: `(B, T, N, H, W)`, at the (padded) size of the frames.
        masks: B tensors `(T, h_b, w_b)` with h_b <= H and w_b <= W: padding at the right and bottom is cut.
            For N = 1 foreground is not 0; else they hold class indices.
        labelled: B lists of the indices of the labelled frames, 0 to T - 1, ascending.

    Returns:
        Pairs of `(F, N, h, w)` logits and `(F, 1, h, w)` targets.

    Raises:
        ValueError: if a class index is not below N > 1; checked on the CPU only, a GPU reports it in the loss.
    """
    num_frames, num_classes, height, width = logits.shape[1:]
    whole = [*range(num_frames)]
    if all([*places] == whole for places in labelled) and all(m.shape[-2:] == (height, width) for m in masks):
        return [(logits.flatten(0, 1), as_target(torch.cat(masks), num_classes))]
    groups: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for clip, mask, places in zip(logits, masks, labelled, strict=True):
        h, w = mask.shape[-2:]
        for first, end in runs(places) or [(0, 0)]:  # a clip without labels still keeps the graph
            pair = clip[first:end, :, :h, :w], as_target(mask[first:end], num_classes)
            groups.setdefault((h, w), []).append(pair)
    return [(torch.cat([p for p, _ in g]), torch.cat([m for _, m in g])) for g in groups.values()]


def as_target(masks: Tensor, num_classes: int) -> Tensor:
    """Return masks `(F, h, w)` as `(F, 1, h, w)` targets: 0 and 1 for one class, else indices, checked on the CPU."""
    target = masks.unsqueeze(1)
    if num_classes == 1:
        return (target > 0).to(target.dtype)
    # Reading a value from a GPU would synchronise, and a fake tensor has none.
    if target.device.type == "cpu" and not isinstance(target, FakeTensor) and target.numel():
        greatest = int(target.max())
        if greatest >= num_classes:
            raise ValueError(f"gt_masks: class index {greatest}, but the model has {num_classes} classes")
    return target


def runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges (first, end) that make up ascending numbers."""
    firsts = [p for p in places if p - 1 not in places]
    return list(zip(firsts, (p + 1 for p in places if p + 1 not in places), strict=True))
