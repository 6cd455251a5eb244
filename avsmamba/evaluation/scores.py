"""AVSBench's scores of binary masks, M_J (IoU) and M_F (F-measure), under two protocols.

Source: the formulas of the public AVSBench scripts. Those compute in float32; here pixels are counted as integers and
fractions are float64, so scores depend neither on the device nor on the batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BETA2 = 0.3
NUM_THRESHOLDS = 255
# In float64: float32 rounds the last one to 1.
THRESHOLDS = torch.from_numpy(np.linspace(0, 1 - 1e-10, NUM_THRESHOLDS))


@dataclass(frozen=True)
class FrameCounts:
    """Pixel counts of N frames, integers on the CPU, from which all scores are computed.

    Pixels of the true mask weigh 0 to `unit`, so `true`, `both` and `true_at` are in units of 1 / `unit` pixel.

    Attributes:
        pixels: number of pixels of a frame.
        unit: 1 for a binary mask, 255 for a soft one.
        true: `(N,)` int64, of the true mask.
        predicted: `(N,)` int64, predicted as foreground: p > 0.5.
        both: `(N,)` int64, of the true mask where the prediction is foreground.
        true_at: `(N, 255)` int32, of the true mask where p >= threshold.
        predicted_at: `(N, 255)` int32, pixels where p >= threshold.
    """

    pixels: int
    unit: int
    true: Tensor
    predicted: Tensor
    both: Tensor
    true_at: Tensor
    predicted_at: Tensor

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.true)


@dataclass(frozen=True)
class FrameScores:
    """Scores of N frames, float64 on the CPU.

    Attributes:
        iou: `(N,)`, of the foregrounds, or of the backgrounds if the true mask is empty.
        f_beta: `(N, 255)`, F-measure at each threshold; 0 if the true mask is empty.
        sounding: `(N,)` bool, frames whose true mask is not empty.
        foreground: `(N,)`, share of the pixels predicted as foreground.
    """

    iou: Tensor
    f_beta: Tensor
    sounding: Tensor
    foreground: Tensor


@dataclass(frozen=True)
class ClipScores:
    """Sums over the scored frames of one clip, from which both protocols are computed.

    Attributes:
        frames: number of scored frames.
        sounding: number of those whose true mask is not empty.
        iou: sum over the scored frames.
        foreground: sum over the scored frames.
        f_beta: `(255,)` float64, sum over the sounding frames.
    """

    frames: int
    sounding: int
    iou: float
    foreground: float
    f_beta: Tensor


def threshold_counts(probabilities: Tensor, masks: Tensor, unit: int = 1) -> tuple[Tensor, Tensor]:
    """Count the pixels at or above each threshold.

    Args:
        probabilities: `(N, h, w)` float64 in [0, 1].
        masks: `(N, h, w)` bool, or with a `unit` above 1 integers from 0 to `unit`.
        unit: weight of a fully true pixel.

    Returns:
        True positives in units of 1 / `unit` pixel and predicted positives, both `(N, 255)` int64 on the CPU.
    """
    num_bins = NUM_THRESHOLDS + 1
    # The bin of p is the number of thresholds <= p; right=False would put a p equal to a threshold below it.
    bins = torch.bucketize(probabilities, THRESHOLDS.to(probabilities.device), right=True)
    frame = torch.arange(len(masks), device=masks.device).view(-1, 1, 1)

    def above(indices: Tensor, rows: int, weights: Tensor | None = None) -> Tensor:
        counts = torch.bincount(indices.flatten(), weights, minlength=num_bins * rows).cpu().long()
        return counts.view(rows, num_bins).flip(-1).cumsum(-1).flip(-1)[:, 1:]

    if unit == 1:
        both = above(bins + num_bins * (2 * frame + masks), 2 * len(masks)).view(-1, 2, NUM_THRESHOLDS)
        return both[:, 1], both.sum(1)
    bins = bins + num_bins * frame
    # Sums of integers below 2^53 are exact in float64.
    return above(bins, len(masks), masks.flatten().double()), above(bins, len(masks))


def frame_counts(logits: Tensor, masks: Tensor, unit: int = 1) -> FrameCounts:
    """Count the pixels of frames, for `frame_scores`.

    Args:
        logits: `(N, h, w)`.
        masks: `(N, h, w)`; 0 or False is background. With a `unit` above 1 integers from 0 to `unit`.
        unit: weight of a fully true pixel: 1, or 255 for a soft mask of 8 bits.

    Raises:
        ValueError: if the shapes are unequal, a frame has no pixel or a logit is NaN.
    """
    if logits.ndim != 3 or logits.shape != masks.shape:
        raise ValueError(f"logits, masks: expected equal (N, h, w), got {tuple(logits.shape)}, {tuple(masks.shape)}")
    if not logits[:1].numel() and len(logits):
        raise ValueError(f"logits: expected frames of at least one pixel, got {tuple(logits.shape)}")
    if logits.isnan().any():
        raise ValueError("logits: expected numbers, got NaN")
    masks = masks.to(logits.device)
    masks = masks != 0 if unit == 1 else masks.long()
    probabilities = logits.double().sigmoid()
    predicted = probabilities > 0.5
    true_at, predicted_at = threshold_counts(probabilities, masks, unit)
    return FrameCounts(
        pixels=logits.shape[1] * logits.shape[2],
        unit=unit,
        true=masks.sum((1, 2)).cpu(),
        predicted=predicted.sum((1, 2)).cpu(),
        both=(masks * predicted).sum((1, 2)).cpu(),
        true_at=true_at.int(),
        predicted_at=predicted_at.int(),
    )


def f_measure(true_at: Tensor, predicted_at: Tensor, true: Tensor) -> Tensor:
    """Return the F-measure of float64 counts: true positives, predicted, true; see `frame_scores`."""
    precision = true_at / (predicted_at + 1e-20)
    recall = true_at / (true + 1e-20)
    return ((1 + BETA2) * precision * recall / (BETA2 * precision + recall)).nan_to_num(0.0)


def scores_of(counts: FrameCounts) -> FrameScores:
    """Score each frame by its counts; see `frame_scores`."""
    true, both = counts.true.double() / counts.unit, counts.both.double() / counts.unit
    predicted, sounding = counts.predicted.double(), counts.true > 0
    intersection = torch.where(sounding, both, counts.pixels - predicted)
    union = torch.where(sounding, predicted + true - both, float(counts.pixels))
    f_beta = f_measure(counts.true_at.double() / counts.unit, counts.predicted_at.double(), true[:, None])
    return FrameScores(intersection / (union + 1e-7), f_beta, sounding, predicted / counts.pixels)


def frame_scores(logits: Tensor, masks: Tensor, unit: int = 1) -> FrameScores:
    """Score each frame.

    IoU = |P and G| / (|P or G| + 1e-7) with P = (p > 0.5), p = sigmoid(logit). If G is empty, it is the IoU of the
    backgrounds, |not P and not G| / (number of pixels + 1e-7).

    F = (1 + b2) precision recall / (b2 precision + recall), b2 = 0.3, 0 for 0 / 0, with P = (p >= threshold),
    precision = |P and G| / (|P| + 1e-20), recall = |P and G| / (|G| + 1e-20), at 255 thresholds evenly spaced on
    [0, 1 - 1e-10].

    With a soft G, whose pixels weigh g in [0, 1], |G| is the sum of g, |P and G| the sum of g over P, and |P or G| the
    sum of max(P, g), which is |P| + |G| - |P and G|.

    Args:
        logits: `(N, h, w)`.
        masks: `(N, h, w)`, 0 or False is background; with a `unit` above 1 integers g * unit.
        unit: weight of a fully true pixel.

    Raises:
        ValueError: as `frame_counts`.
    """
    return scores_of(frame_counts(logits, masks, unit))


def clip_scores(logits: Tensor, masks: Tensor, scored: Tensor) -> ClipScores:
    """Score one clip.

    Args:
        logits: `(T, h, w)`.
        masks: `(T, h, w)`, 0 is background.
        scored: `(T,)` bool, the existing and labelled frames.

    Raises:
        ValueError: as `frame_counts`, or if `scored` has another shape.
    """
    if tuple(scored.shape) != tuple(masks.shape[:1]):
        raise ValueError(f"scored: expected {tuple(masks.shape[:1])}, got {tuple(scored.shape)}")
    scored = scored.cpu().bool()
    return clip_sums(frame_scores(logits[scored.to(logits.device)], masks[scored.to(masks.device)]))


def clip_sums(frames: FrameScores, with_empty: bool = True) -> ClipScores:
    """Sum the frames of one clip.

    Args:
        frames: its scored frames.
        with_empty: False excludes the frames whose true mask is empty.
    """
    kept = slice(None) if with_empty else frames.sounding
    iou, f_beta = frames.iou[kept], frames.f_beta[kept]
    return ClipScores(
        frames=len(iou),
        sounding=int(frames.sounding.sum()),
        iou=math.fsum(iou.tolist()),
        foreground=math.fsum(frames.foreground[kept].tolist()),
        f_beta=f_beta.sum(0),
    )


def frame_protocol(clips: Sequence[ClipScores]) -> tuple[float, float]:
    """Return M_J and M_F with equal weights of all frames.

    M_J is the mean IoU of the scored frames. M_F is the mean F over the frames whose true mask is not empty, at the
    threshold that maximizes this mean; 0 if every true mask is empty.

    Raises:
        ValueError: if no frame is scored.
    """
    frames, sounding = sum(c.frames for c in clips), sum(c.sounding for c in clips)
    if not frames:
        raise ValueError("clips: no frame is labelled, nothing to score")
    iou = math.fsum(c.iou for c in clips) / frames
    # Clip by clip, in the order of the data set: floating-point addition is not associative.
    f_beta = sum((c.f_beta for c in clips), torch.zeros_like(THRESHOLDS)) / max(1, sounding)
    return iou, float(f_beta.max())


def avsbench_protocol(clips: Sequence[ClipScores], batch_size: int) -> tuple[float, float]:
    """Return M_J and M_F as the public scripts compute them for S4 and MS3.

    The scores of `frame_protocol` are averaged over batches of `batch_size` consecutive clips: M_F has one threshold
    per batch, a batch without sound has M_F 0, and a short last batch weighs as much as a full one.

    Unlabelled and padded frames are excluded (S4 and MS3 have none in val and test, so the scripts' scores are equal),
    and so are batches without a scored frame.

    Raises:
        ValueError: if no frame is scored, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    batches = [clips[i : i + batch_size] for i in range(0, len(clips), batch_size)]
    scores = [frame_protocol(batch) for batch in batches if any(c.frames for c in batch)]
    if not scores:
        raise ValueError("clips: no frame is labelled, nothing to score")
    return math.fsum(j for j, _ in scores) / len(scores), math.fsum(f for _, f in scores) / len(scores)
