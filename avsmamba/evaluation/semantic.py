"""AVSBench's scores of semantic masks (AVSS), M_J (IoU) and M_F (F-measure), by class, under two protocols.

Source: the formulas of the public AVSBench scripts. For each frame and class, from the predicted and the true class of
every pixel: IoU = TP / (TP + FP + FN), F = (1 + b2) precision recall / (b2 precision + recall) with b2 = 0.3, 0 for
0 / 0. A class counts for a frame when its union (TP + FP + FN) is not empty. A class's score is the sum over frames by
the number of frames for which it counts, 0 where there is none; M_J and M_F are the means over all classes.

Nothing is averaged by batches: the public scripts sum over the whole set too. `semantic_conventions` has the other
averages; docs/scores.md lists the papers that use them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avsmamba.evaluation.scores import BETA2

Array = np.ndarray


@dataclass(frozen=True)
class ClassCounts:
    """Pixels by class of the N scored frames of one clip; arrays are `(N, C)` int32.

    Attributes:
        both: true positives.
        predicted: predicted as the class.
        true: of the class in the truth.
        padded: number of frames that do not exist.
    """

    both: Array
    predicted: Array
    true: Array
    padded: int


@dataclass(frozen=True)
class SemanticClipScores:
    """Sums over the scored frames of one clip; arrays are `(C,)` float64.

    Attributes:
        frames: number of scored frames.
        padded: number of frames that do not exist.
        iou: sum over the frames.
        f_beta: sum over the frames.
        count: number of frames for which each class counts.
        true: number of frames whose truth contains each class.
        foreground: sum over the frames of the share of pixels predicted as any class but 0.
    """

    frames: int
    padded: int
    iou: Array
    f_beta: Array
    count: Array
    true: Array
    foreground: float


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class over a set of clips, `(C,)` float64: IoU, F and the number of frames that contain it."""

    iou: Array
    f_beta: Array
    true: Array

    def mean(self, which: Array | slice = slice(None)) -> tuple[float, float]:
        """Return M_J and M_F over some classes, by default all; 0 over none."""
        iou, f_beta = self.iou[which], self.f_beta[which]
        return (float(iou.mean()), float(f_beta.mean())) if len(iou) else (0.0, 0.0)

    def without_background(self) -> tuple[float, float]:
        """Return M_J and M_F over all classes but class 0 (the public scripts exclude the last class instead)."""
        return self.mean(slice(1, None))

    def present(self) -> tuple[float, float]:
        """Return M_J and M_F over the classes that occur in the truth."""
        return self.mean(self.true > 0)


def pixel_counts(predicted: Tensor, masks: Tensor, num_classes: int) -> tuple[Array, Array, Array]:
    """Count pixels by frame and class, `(N, C)` int64 each: true positives, predicted, true."""
    frame = torch.arange(len(masks), device=masks.device).view(-1, 1, 1) * num_classes

    def count(indices: Tensor, weights: Tensor | None = None) -> Array:
        flat = (indices + frame)[weights] if weights is not None else (indices + frame).flatten()
        return torch.bincount(flat, minlength=num_classes * len(masks)).view(len(masks), num_classes).cpu().numpy()

    return count(masks, predicted == masks), count(predicted), count(masks)


def semantic_clip_scores(
    labels: Tensor, masks: Tensor, num_classes: int, scored: Tensor, exists: Tensor
) -> SemanticClipScores:
    """Score one clip; arguments and errors as `semantic_clip_counts`."""
    return clip_sums(semantic_clip_counts(labels, masks, num_classes, scored, exists))


def semantic_clip_counts(
    labels: Tensor, masks: Tensor, num_classes: int, scored: Tensor, exists: Tensor
) -> ClassCounts:
    """Count the pixels of one clip by class.

    Args:
        labels: `(T, h, w)` predicted class indices.
        masks: `(T, h, w)` true class indices.
        num_classes: C, the background included.
        scored: `(T,)` bool, the existing and labelled frames.
        exists: `(T,)` bool.

    Raises:
        ValueError: if the shapes are unequal, a frame has no pixel, or an index is C or greater.
    """
    if labels.ndim != 3 or labels.shape != masks.shape:
        raise ValueError(f"labels, masks: expected equal (T, h, w), got {tuple(labels.shape)}, {tuple(masks.shape)}")
    if not labels[:1].numel() and len(labels):
        raise ValueError(f"labels: expected frames of at least one pixel, got {tuple(labels.shape)}")
    scored = scored.cpu().bool()
    predicted = labels[scored.to(labels.device)].long()
    masks = masks[scored.to(masks.device)].to(labels.device).long()
    for name, values in (("labels", predicted), ("masks", masks)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(f"{name}: expected class indices 0 to {num_classes - 1}, got {int(values.max())}")
    both, positives, truths = (c.astype(np.int32) for c in pixel_counts(predicted, masks, num_classes))
    return ClassCounts(both, positives, truths, padded=int((~exists.cpu().bool()).sum()))


def class_fractions(both: Array, predicted: Array, true: Array) -> tuple[Array, Array, Array]:
    """Return IoU, F and whether the class counts, from pixels by class; 0 for 0 / 0."""
    union = predicted.astype(np.int64) + true - both
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.nan_to_num(both / union)
        precision, recall = both / predicted, both / true
        f_beta = np.nan_to_num((1 + BETA2) * precision * recall / (BETA2 * precision + recall))
    return iou, f_beta, union > 0


def clip_sums(counts: ClassCounts) -> SemanticClipScores:
    """Sum the scored frames of one clip."""
    iou, f_beta, counted = class_fractions(counts.both, counts.predicted, counts.true)
    pixels = max(1, int(counts.true[:1].sum()))
    return SemanticClipScores(
        frames=len(counts.true),
        padded=counts.padded,
        iou=iou.sum(0),
        f_beta=f_beta.sum(0),
        count=counted.sum(0).astype(np.float64),
        true=(counts.true > 0).sum(0).astype(np.float64),
        foreground=float((1 - counts.predicted[:, 0] / pixels).sum()),
    )


def semantic_scores(clips: Sequence[SemanticClipScores], padding: bool = False) -> ClassScores:
    """Return the scores by class over a set of clips.

    Args:
        clips: the clips' sums.
        padding: False is protocol `frame`, which excludes padded frames. True is protocol `avsbench`: the public
            scripts score them too, with logits of zero, as frames of correctly predicted background.

    Raises:
        ValueError: if no frame is scored.
    """
    if not sum(clip.frames for clip in clips):
        raise ValueError("clips: no frame is labelled, nothing to score")
    iou, f_beta, count, true = (sum(getattr(c, name) for c in clips) for name in ("iou", "f_beta", "count", "true"))
    if padding:
        background = np.zeros_like(count)
        background[0] = sum(clip.padded for clip in clips)
        iou, f_beta, count = iou + background, f_beta + background, count + background
    count = np.maximum(count, 1)
    return ClassScores(iou / count, f_beta / count, true)


def semantic_conventions(clips: Sequence[Mapping[str, ClassCounts]]) -> dict[str, tuple[float, float]]:
    """Return M_J and M_F by key of the convention: `{grouping}/{size}`, plus `/no_background` without class 0.

    `frame` and `avsbench` are `semantic_scores` without and with padding. The others:

    - `frame_mean`: the mean over the classes that count in a frame, averaged over frames;
    - `video`: class scores as `frame`, but over one clip's frames, the mean over the classes that count there, averaged
      over clips;
    - `pooled`: pixels summed over all frames before the division, the mean over all classes.

    A frame or clip in which no class counts is excluded, and a class that never occurs scores 0 in `pooled`.
    """
    found: dict[str, tuple[float, float]] = {}
    for size in clips[0]:
        counts = [clip[size] for clip in clips]
        sums = [clip_sums(clip) for clip in counts]
        pooled = class_fractions(*(sum(getattr(c, n).sum(0) for c in counts) for n in ("both", "predicted", "true")))
        frames = [table for c in counts for table in zip(*class_fractions(c.both, c.predicted, c.true), strict=True)]
        videos = [(c.iou / np.maximum(c.count, 1), c.f_beta / np.maximum(c.count, 1), c.count > 0) for c in sums]
        for suffix, which in (("", slice(None)), ("/no_background", slice(1, None))):
            found |= {
                f"frame/{size}{suffix}": semantic_scores(sums).mean(which),
                f"avsbench/{size}{suffix}": semantic_scores(sums, padding=True).mean(which),
                f"frame_mean/{size}{suffix}": mean_of_means(frames, which),
                f"video/{size}{suffix}": mean_of_means(videos, which),
                f"pooled/{size}{suffix}": (float(pooled[0][which].mean()), float(pooled[1][which].mean())),
            }
    return found


def mean_of_means(tables: Sequence[tuple[Array, Array, Array]], which: slice) -> tuple[float, float]:
    """Return M_J and M_F: means over the classes that count in each table `(IoU, F, counts)`, averaged over tables."""
    means = [(iou[which][c[which]].mean(), f[which][c[which]].mean()) for iou, f, c in tables if c[which].any()]
    count = max(1, len(means))
    return math.fsum(j for j, _ in means) / count, math.fsum(f for _, f in means) / count
