"""Hungarian matching: which query of a frame predicts which of its targets."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, limits
from avsmamba.models.layers.deformable import pixel_centres
from avsmamba.models.sets.points import sample
from avsmamba.models.sets.targets import SetTargets
from avsmamba.registry import MODELS


class Matches(NamedTuple):
    """M pairs of a query and a target, sorted by layer and frame: indices `(M,)` int64 on the labels' device.

    Attributes:
        frame, query, target: indices of the pairs.
        counts: number of pairs of each layer.
    """

    frame: Tensor
    query: Tensor
    target: Tensor
    counts: list[int]


@MODELS.register_module()
class HungarianMatcher(nn.Module):
    """The assignment of least cost between the queries and the targets of each frame and layer.

    Cost of query q for target n of class c: -class_weight p_q(c) + mask_weight BCE + dice_weight (1 - dice), with BCE
    and dice over points of the frame. A frame with more targets than queries leaves some targets without a query.

    Source: Mask2Former (Cheng et al., CVPR 2022, Sec. 3.2), with its weights and number of points.

    Args:
        class_weight: factor of the class's probability.
        mask_weight: factor of the mean binary cross-entropy.
        dice_weight: factor of the dice loss.
        smooth: added above and below in the dice.
        num_points: random points of a frame at which masks are compared, the same for all queries and layers; None: a
            grid as fine as the labels.
    """

    @limits(
        class_weight=AT_LEAST_0,
        mask_weight=AT_LEAST_0,
        dice_weight=AT_LEAST_0,
        smooth=AT_LEAST_0,
        num_points=AT_LEAST_1,
    )
    def __init__(
        self,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        smooth: float = 1.0,
        num_points: int | None = 12544,
    ):
        super().__init__()
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight
        self.smooth, self.num_points = smooth, num_points

    @torch.no_grad()
    def forward(self, layers: Sequence[tuple[Tensor, Tensor]], targets: SetTargets) -> Matches:
        """Match.

        Args:
            layers: class logits `(F, Q, K + 1)` and mask logits `(F, Q, h, w)` of each layer.
            targets: of the F frames.
        """
        frames, device = len(targets.counts), targets.labels.device
        if self.num_points is None:
            points = pixel_centres((tuple(targets.labels.shape[-2:]),), device).expand(frames, -1, -1)  # type: ignore[arg-type]
        else:
            points = torch.rand(frames, self.num_points, 2, device=device)
        labels = targets.labels_at(torch.arange(frames, device=device), points)
        truth = labels.unsqueeze(1) == targets.values.unsqueeze(-1)
        places = points * targets.extent.unsqueeze(1)
        # Under autocast the products of thousands of points would be rounded to bfloat16.
        full = torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, enabled=False) if full else nullcontext():
            costs = torch.stack([self.costs(c, m, targets.classes, truth, places) for c, m in layers])
        return assign(costs, targets.counts)

    def costs(self, class_logits: Tensor, masks: Tensor, classes: Tensor, truth: Tensor, places: Tensor) -> Tensor:
        """Return the costs `(F, Q, N)` of one layer.

        Args:
            class_logits: `(F, Q, K + 1)`.
            masks: `(F, Q, h, w)` logits.
            classes: `(F, N)` of the targets.
            truth: `(F, N, P)` bool, which points are in a target.
            places: `(F, P, 2)`, the points as (x, y) in [0, 1] of the masks.
        """
        kind = torch.promote_types(masks.dtype, torch.float32)
        probability = class_logits.to(kind).softmax(-1)
        queries = probability.shape[1]
        cost = -self.class_weight * probability.gather(2, classes.unsqueeze(1).expand(-1, queries, -1))
        logits, inside = sample(masks.to(kind), places), truth.to(kind).transpose(1, 2)
        # BCE(x, g) = softplus(x) - g x, summed over the points by one product of matrices.
        bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ inside) / logits.shape[-1]
        p = logits.sigmoid()
        overlap = 2 * (p @ inside) + self.smooth
        dice = 1 - overlap / (p.sum(-1, keepdim=True) + inside.sum(1, keepdim=True) + self.smooth)
        return cost + self.mask_weight * bce + self.dice_weight * dice


def assign(costs: Tensor, counts: Sequence[int]) -> Matches:
    """Solve the assignments of all layers and frames; the costs are read from their device once.

    A fake tensor has no costs: its first targets get the first queries. NaN counts as 0, so that a model that diverged
    ends in a loss of NaN.

    Args:
        costs: `(L, F, Q, N)`.
        counts: number of targets of each of the F frames.
    """
    queries, device = costs.shape[2], costs.device
    values = (
        None if isinstance(costs, FakeTensor) else np.nan_to_num(costs.double().cpu().numpy(), posinf=1e9, neginf=-1e9)
    )

    def pairs(layer: int, frame: int) -> list[tuple[int, int, int]]:
        if values is None:
            return [(frame, i, i) for i in range(min(counts[frame], queries))]
        found = linear_sum_assignment(values[layer, frame, :, : counts[frame]])
        return [(frame, int(q), int(n)) for q, n in zip(*found, strict=True)]

    per_layer = [[p for frame in range(len(counts)) for p in pairs(layer, frame)] for layer in range(len(costs))]
    flat = torch.tensor([p for found in per_layer for p in found], dtype=torch.long).view(-1, 3)
    frame, query, target = flat.to(device, non_blocking=True).unbind(1)
    return Matches(frame, query, target, [*map(len, per_layer)])
