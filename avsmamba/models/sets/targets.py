"""Labels of the labelled frames as sets of targets: a binary mask and a class for each class, or region, in a frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from avsmamba.models.losses import as_target


class SetTargets(NamedTuple):
    """Targets of F frames, at most N a frame. A target is the set of pixels whose label has its value.

    Attributes:
        labels: `(F, h, w)` labels, padded at the right and below to a common size.
        sizes: `(F, 2)` float, (w, h) of each frame's labels without padding, in pixels.
        extent: `(F, 2)`, the share (x, y) of the padded frame, and so of a predicted mask, that the labels cover.
        values: `(F, N)` label of each target; -1 behind a frame's last one.
        classes: `(F, N)` class of each target, from 0.
        counts: number of targets of each frame.
    """

    labels: Tensor
    sizes: Tensor
    extent: Tensor
    values: Tensor
    classes: Tensor
    counts: list[int]

    def labels_at(self, frames: Tensor, points: Tensor) -> Tensor:
        """Return the labels `(M, P)` of the pixels in which the points are.

        Args:
            frames: `(M,)` indices of frames.
            points: `(M, P, 2)`, (x, y) in [0, 1] of the width and height of the labels without padding.
        """
        sizes = self.sizes[frames].unsqueeze(1)
        x, y = torch.minimum((points * sizes).floor(), sizes - 1).long().unbind(-1)
        return self.labels[frames].flatten(1).gather(1, y * self.labels.shape[-1] + x)


def frame_targets(
    masks: Sequence[Tensor],
    labelled: Sequence[Sequence[int]],
    size: Sequence[int],
    num_classes: int,
    background: bool,
    components: bool = False,
) -> SetTargets:
    """Build the targets of the labelled frames, clip after clip.

    The numbers of the labels are read once, from all frames together, and with `components` the labels. Fake tensors
    have none: each frame then has one target, or two where there are several classes.

    Args:
        masks: B tensors `(T, h_b, w_b)`: class indices, or for one class foreground is what is not 0.
        labelled: B ascending lists of the labelled frames.
        size: (H, W) of the padded frames.
        num_classes: K; with one class a target is the foreground of a frame, with class 0.
        background: whether class 0 of K > 1 classes is a target like the others.
        components: whether each connected region of a class is a target of its own, instead of all its pixels together.

    Raises:
        ValueError: if a label is not below K > 1; on the CPU alone.
    """
    kinds, offset = (2, 1) if num_classes == 1 else (num_classes, 0)
    first = 1 if num_classes == 1 or not background else 0
    device = masks[0].device
    parts, sizes = [], []
    for mask, places in zip(masks, labelled, strict=True):
        chosen = mask.index_select(0, torch.tensor([*places], dtype=torch.long).to(device, non_blocking=True))
        parts.append(as_target(chosen, num_classes).squeeze(1))
        sizes += [(mask.shape[-1], mask.shape[-2])] * len(places)
    height, width = (max(p.shape[axis] for p in parts) for axis in (-2, -1))
    found = torch.cat([torch.zeros(len(p), kinds, device=device).scatter_(1, p.flatten(1).long(), 1) for p in parts])
    if isinstance(found, FakeTensor):
        present = [[*range(first, min(kinds, first + 2))]] * len(found)
    else:
        present = [[v for v in range(first, kinds) if row[v]] for row in found.tolist()]
    values = present
    if components and not isinstance(found, FakeTensor):
        rows = iter(present)
        regions = [connected_regions(p, [next(rows) for _ in p]) for p in parts]
        parts = [labels.to(device, non_blocking=True) for labels, _ in regions]
        present = [row for _, found_in in regions for row in found_in]
        values = [[*range(1, len(row) + 1)] for row in present]
    most = max(map(len, present), default=0)

    def filled(rows: Sequence[Sequence[int]]) -> Tensor:
        flat = [v for row in rows for v in (*row, *[-1] * (most - len(row)))]
        return torch.tensor(flat, dtype=torch.long).view(len(rows), most).to(device, non_blocking=True)

    pixels = torch.tensor(sizes, dtype=torch.float32).view(-1, 2)
    return SetTargets(
        torch.cat([F.pad(p, (0, width - p.shape[-1], 0, height - p.shape[-2])) for p in parts]),
        pixels.to(device, non_blocking=True),
        (pixels / torch.tensor([size[1], size[0]])).to(device, non_blocking=True),
        filled(values),
        (filled(present) - offset).clamp(min=0),
        [*map(len, present)],
    )


def connected_regions(labels: Tensor, present: Sequence[Sequence[int]]) -> tuple[Tensor, list[list[int]]]:
    """Number the connected regions (8 neighbours) of each frame from 1, one value after the other.

    Args:
        labels: `(F, h, w)`.
        present: the values of each frame whose regions are numbered; what has another value is 0.

    Returns:
        Numbers `(F, h, w)` on the CPU, and the value of each region of each frame.
    """
    numbers = np.zeros(labels.shape, np.int32)
    values: list[list[int]] = []
    for frame, out, row in zip(labels.cpu().numpy(), numbers, present, strict=True):
        values.append([])
        for value in row:
            regions, count = ndimage.label(frame == value, np.ones((3, 3)))
            out += np.where(regions, regions + len(values[-1]), 0).astype(np.int32)
            values[-1] += [value] * count
    return torch.from_numpy(numbers), values
