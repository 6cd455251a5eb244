"""Losses on the frames that are labelled: dice (S4 and MS3, Sec. V-B), cross-entropy (AVSS), those of other methods.

Logits are `(F, N, h, w)` for N classes. A target is either `(F, N, h, w)` in {0, 1}, or `(F, 1, h, w)` of class
indices, which represent the one-hot masks of N > 1 classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from avsmamba.limits import AT_LEAST_0, ODD, RATE, limits
from avsmamba.models.layers.totals import at_least_float32
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
        p = at_least_float32(logits).sigmoid().flatten(2)
        g = target.to(p.dtype).flatten(2)
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
        logits = at_least_float32(logits)
        if are_indices(logits, target):
            # BCE(x, g) = softplus(x) - g x: one-hot targets of 71 classes would take as much memory as the logits.
            true = logits.gather(1, target.long()).sum() / logits.numel()
            return self.loss_weight * (F.softplus(logits).mean() - true)
        return self.loss_weight * F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


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
        logits = at_least_float32(logits)
        weight = logits.new_ones(logits.shape[1])
        weight[0] = self.background_weight
        return self.loss_weight * F.cross_entropy(logits, target[:, 0].long(), weight)


@MODELS.register_module()
class StructureLoss(nn.Module):
    """Binary cross-entropy and weighted intersection over union; pixels near a border of the mask weigh more.

    With w = 1 + `border_weight` |mean of g over a window - g| around each pixel (zeros outside of the frame):
    BCE(x, g') + 1 - (I + 1) / (U - I + 1), I = sum(w p g), U = sum(w (p + g)), of each frame and class, averaged. g' is
    g (1 - s) + s / 2 with s the `smoothing`.

    Source: F3Net (Wei et al., AAAI 2020), as AVSBiGen and ECMVAE train. Their code averages the cross-entropy before it
    is weighted, so the weights cancel in it.

    Args:
        loss_weight: factor of the sum of both terms.
        smoothing: s, of the targets of the cross-entropy.
        window: height and width of the window, odd.
        border_weight: greatest additional weight of a pixel.
        weighted_bce: apply the weights to the cross-entropy too (F3Net); false: as their code.
    """

    @limits(loss_weight=AT_LEAST_0, smoothing=RATE, window=ODD, border_weight=AT_LEAST_0)
    def __init__(
        self,
        loss_weight: float = 1.0,
        smoothing: float = 0.001,
        window: int = 31,
        border_weight: float = 5.0,
        weighted_bce: bool = False,
    ):
        super().__init__()
        self.loss_weight, self.smoothing, self.window = loss_weight, smoothing, window
        self.border_weight, self.weighted_bce = border_weight, weighted_bce

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of `(F, N, h, w)` logits against `(F, N, h, w)` masks; zero for F = 0.

        Raises:
            ValueError: if the target holds class indices.
        """
        if not len(logits):
            return logits.sum()
        if are_indices(logits, target):
            raise ValueError(f"StructureLoss: expected a mask for each of {logits.shape[1]} classes, got class indices")
        x = at_least_float32(logits)
        g = target.to(x.dtype)
        weights = 1 + self.border_weight * (window_mean(g, self.window) - g).abs()
        smooth = g * (1 - self.smoothing) + self.smoothing / 2
        bce = F.binary_cross_entropy_with_logits(x, smooth, reduction="none")
        if self.weighted_bce:
            bce = bce * weights / weights.mean((2, 3), keepdim=True)
        p = x.sigmoid()
        overlap, sizes = (weights * p * g).sum((2, 3)), (weights * (p + g)).sum((2, 3))
        return self.loss_weight * (bce.mean((2, 3)) + 1 - (overlap + 1) / (sizes - overlap + 1)).mean()


def window_mean(masks: Tensor, window: int) -> Tensor:
    """Return the mean of `(F, N, h, w)` in a square window around each pixel, with zeros outside of the frame."""
    rows = F.avg_pool2d(masks, (window, 1), stride=1, padding=(window // 2, 0))
    return F.avg_pool2d(rows, (1, window), stride=1, padding=(0, window // 2))


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
