"""Losses of set prediction: classes of all queries, masks of the matched ones, for every supervised layer."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, PROBABILITY, limits
from avsmamba.models.layers.deformable import pixel_centres
from avsmamba.models.layers.totals import at_least_float32, batch_total
from avsmamba.models.sets.matcher import Matches
from avsmamba.models.sets.points import sample, uncertain_points
from avsmamba.models.sets.targets import SetTargets, frame_targets
from avsmamba.registry import MODELS

Config = dict[str, Any]


@MODELS.register_module()
class SetLoss(nn.Module):
    """Cross-entropy of the classes, binary cross-entropy and dice of the masks at points.

    Classes: the mean over all queries of the labelled frames, weighted, in which a query without a target has to
    predict 'no object', the last class. Masks: the sum over the matched pairs, each the mean over its points, divided
    by the number of targets. Without a target the masks cost 0.

    Source: Mask2Former (Cheng et al., CVPR 2022, Sec. 3.2 and 4), with its weights and points; the labels are read at
    the pixel in which a point is.

    Args:
        class_weight: factor of the cross-entropy.
        mask_weight: factor of the binary cross-entropy.
        dice_weight: factor of the dice loss.
        focal_weight: factor of the focal loss (Lin et al., 2017; alpha 0.25, gamma 2) of MaskFormer and CATR; 0: it is
            not computed.
        no_object_weight: weight of queries without a target, against 1 for the others.
        smooth: added above and below in the dice.
        num_points: points of a mask; None: a grid as fine as the labels, without random numbers.
        oversample: random candidates for each point, of which the most uncertain are taken.
        importance: share of points taken from the candidates; the others are random.
        background: whether class 0 is a target like the others, where there are several classes; as in the head.
        components: each connected region of a class is a target of its own, so that a query learns to mark one object
            of those that sound; else all pixels of a class in a frame are one target.
        matcher: config of the matching; None: `HungarianMatcher`.
    """

    @limits(
        class_weight=AT_LEAST_0,
        mask_weight=AT_LEAST_0,
        dice_weight=AT_LEAST_0,
        focal_weight=AT_LEAST_0,
        no_object_weight=AT_LEAST_0,
        smooth=AT_LEAST_0,
        num_points=AT_LEAST_1,
        oversample=AT_LEAST_1,
        importance=PROBABILITY,
    )
    def __init__(
        self,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        focal_weight: float = 0.0,
        no_object_weight: float = 0.1,
        smooth: float = 1.0,
        num_points: int | None = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        background: bool = True,
        components: bool = False,
        matcher: Config | None = None,
    ):
        super().__init__()
        self.class_weight, self.no_object_weight = class_weight, no_object_weight
        self.mask_weights = {"mask": mask_weight, "dice": dice_weight, "focal": focal_weight}
        self.smooth, self.num_points, self.background = smooth, num_points, background
        self.oversample, self.importance, self.components = oversample, importance, components
        self.matcher = MODELS.build(matcher or {"type": "HungarianMatcher"})

    def forward(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        masks: Sequence[Tensor],
        labelled: Sequence[Sequence[int]],
        size: Sequence[int],
    ) -> list[dict[str, Tensor]]:
        """Compute the losses of each layer: `loss_set_class`, `loss_set_mask`, `loss_set_dice`, `loss_set_focal`.

        Args:
            layers: class logits `(B, T, Q, K + 1)` and mask logits `(B, T, Q, h, w)` of each supervised layer.
            masks: B tensors `(T, h_b, w_b)`: class indices, or for K = 1 foreground is what is not 0.
            labelled: B ascending lists of the labelled frames.
            size: (H, W) of the padded frames, which the predicted masks cover.
        """
        num_frames = layers[0][0].shape[1]
        places = torch.tensor(
            [b * num_frames + t for b, frames in enumerate(labelled) for t in frames], dtype=torch.long
        )
        chosen = [tuple(select(x.flatten(0, 1), places) for x in layer) for layer in layers]
        num_classes = layers[0][0].shape[-1] - 1
        targets = frame_targets(masks, labelled, size, num_classes, self.background, self.components)
        matches = self.matcher(chosen, targets)
        losses = {"loss_set_class": self.class_losses([c for c, _ in chosen], matches, targets)}
        losses |= self.mask_losses([m for _, m in chosen], matches, targets)
        return [{name: values[i] for name, values in losses.items()} for i in range(len(layers))]

    def class_losses(self, logits: Sequence[Tensor], matches: Matches, targets: SetTargets) -> Tensor:
        """Return the loss `(L,)` of each layer's class logits `(F, Q, K + 1)`."""
        stacked = torch.stack([at_least_float32(x) for x in logits])
        count, nothing = len(stacked), stacked.shape[-1] - 1
        truth = torch.full(stacked.shape[:-1], nothing, device=stacked.device)
        first = 0
        for i, pairs in enumerate(matches.counts):
            frame, query, target = (x[first : first + pairs] for x in matches[:3])
            truth[i].index_put_((frame, query), targets.classes[frame, target])
            first += pairs
        weight = torch.where(truth == nothing, self.no_object_weight, 1.0).to(stacked.dtype).view(count, -1)
        values = F.cross_entropy(stacked.flatten(0, 2), truth.flatten(), reduction="none").view(count, -1)
        return self.class_weight * (values * weight).sum(1) / batch_total(weight.sum(1), weight, least=1e-12)

    def mask_losses(self, masks: Sequence[Tensor], matches: Matches, targets: SetTargets) -> dict[str, Tensor]:
        """Return the losses `(L,)` of each layer's mask logits `(F, Q, h, w)` by name."""
        names = [name for name, weight in self.mask_weights.items() if weight]
        total = batch_total(sum(targets.counts), masks[0])
        if not sum(matches.counts):
            nothing = torch.stack([at_least_float32(m).sum() * 0 for m in masks])
            return {f"loss_set_{name}": nothing for name in names}
        frames, queries = matches.frame.split(matches.counts), matches.query.split(matches.counts)
        logits = at_least_float32(torch.cat([m[f, q] for m, f, q in zip(masks, frames, queries, strict=True)]))
        extent = targets.extent[matches.frame]
        if self.num_points is None:
            points = pixel_centres((tuple(targets.labels.shape[-2:]),), logits.device)  # type: ignore[arg-type]
            points = points.expand(len(logits), -1, -1)
        else:
            points = uncertain_points(logits, extent, self.num_points, self.oversample, self.importance)
        values = sample(logits.unsqueeze(1), points * extent.unsqueeze(1)).squeeze(1)
        wanted = targets.values[matches.frame, matches.target].unsqueeze(1)
        truth = (targets.labels_at(matches.frame, points) == wanted).to(values.dtype)
        losses = {}
        for name in names:
            each = getattr(self, name)(values, truth).split(matches.counts)
            losses[f"loss_set_{name}"] = self.mask_weights[name] / total * torch.stack([e.sum() for e in each])
        return losses

    def mask(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the mean binary cross-entropy `(M,)` of `(M, P)` points."""
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)

    def dice(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Return the dice loss `(M,)` of `(M, P)` points."""
        p = logits.sigmoid()
        return 1 - (2 * (p * truth).sum(1) + self.smooth) / (p.sum(1) + truth.sum(1) + self.smooth)

    def focal(self, logits: Tensor, truth: Tensor, alpha: float = 0.25) -> Tensor:
        """Return the mean focal loss `(M,)` of `(M, P)` points."""
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        wrong = torch.where(truth > 0, 1 - logits.sigmoid(), logits.sigmoid())
        return (torch.where(truth > 0, alpha, 1 - alpha) * wrong**2 * bce).mean(1)


def select(frames: Tensor, places: Tensor) -> Tensor:
    """Select frames `(B * T, ...)` by ascending places on the CPU; all of them are not copied."""
    return frames if len(places) == len(frames) else frames.index_select(0, places.to(frames.device, non_blocking=True))
