"""AVSBench's scores of binary masks, M_J (IoU) and M_F (F-measure), under two protocols.

Source: the formulas of the public AVSBench scripts. Those work in float32; here pixels are counted as integers and
every fraction is a float64, so a score depends neither on the device nor on how the clips were batched.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BETA2 = 0.3
NUM_THRESHOLDS = 255
# In float64: float32 would round the last one to 1.
THRESHOLDS = torch.from_numpy(np.linspace(0, 1 - 1e-10, NUM_THRESHOLDS))


@dataclass(frozen=True)
class FrameScores:
    """Scores of N frames, float64 on the CPU.

    Attributes:
        iou: `(N,)`, of the foregrounds; of the backgrounds where the true mask is empty.
        f_beta: `(N, 255)`, F-measure at each threshold; 0 where the true mask is empty.
        sounding: `(N,)` bool, frames whose true mask is not empty.
        foreground: `(N,)`, share of the pixels predicted as foreground.
    """

    iou: Tensor
    f_beta: Tensor
    sounding: Tensor
    foreground: Tensor


@dataclass(frozen=True)
class ClipScores:
    """Sums over the scored frames of one clip: all that both protocols need.

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


def threshold_counts(probabilities: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels at or above each threshold.

    Args:
        probabilities: `(N, h, w)` float64 in [0, 1].
        masks: `(N, h, w)` bool.

    Returns:
        true positives and predicted positives, both `(N, 255)` int64 on the CPU.
    """
    num_bins = NUM_THRESHOLDS + 1
    # The bin of p is the number of thresholds <= p; with right=False a p equal to a threshold would fall below it.
    bins = torch.bucketize(probabilities, THRESHOLDS.to(probabilities.device), right=True)
    frame = torch.arange(len(masks), device=masks.device).view(-1, 1, 1)
    bins = bins + num_bins * (2 * frame + masks)
    counts = torch.bincount(bins.flatten(), minlength=2 * num_bins * len(masks)).cpu().view(-1, 2, num_bins)
    above = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return above[:, 1], above.sum(1)


def frame_scores(logits: Tensor, masks: Tensor) -> FrameScores:
    """Score frames one by one.

    IoU = |P and G| / (|P or G| + 1e-7) with P = (p > 0.5), p = sigmoid(logit). Where G is empty it is the backgrounds'
    IoU, |not P and not G| / (number of pixels + 1e-7).

    F = (1 + b2) precision recall / (b2 precision + recall), b2 = 0.3, 0 for 0 / 0, with P = (p >= threshold),
    precision = |P and G| / (|P| + 1e-20), recall = |P and G| / (|G| + 1e-20), at 255 thresholds evenly spaced on
    [0, 1 - 1e-10].

    Args:
        logits: `(N, h, w)`.
        masks: `(N, h, w)`, 0 or False is background.

    Raises:
        ValueError: if the shapes are unequal, a frame has no pixel or a logit is NaN.
    """
    if logits.ndim != 3 or logits.shape != masks.shape:
        raise ValueError(f"logits, masks: expected equal (N, h, w), got {tuple(logits.shape)}, {tuple(masks.shape)}")
    if not logits[:1].numel() and len(logits):
        raise ValueError(f"logits: expected frames of at least one pixel, got {tuple(logits.shape)}")
    if logits.isnan().any():
        raise ValueError("logits: expected numbers, got NaN")
    masks = masks.to(logits.device) != 0
    probabilities = logits.double().sigmoid()
    predicted = probabilities > 0.5

    def count(pixels: Tensor) -> Tensor:
        return pixels.sum((1, 2)).cpu().double()

    num_pixels = float(logits.shape[1] * logits.shape[2])
    positives, foreground, union = count(masks), count(predicted), count(predicted | masks)
    sounding = positives > 0
    intersection = torch.where(sounding, count(predicted & masks), num_pixels - foreground)
    iou = intersection / (torch.where(sounding, union, num_pixels) + 1e-7)

    true_at, predicted_at = threshold_counts(probabilities, masks)
    precision = true_at / (predicted_at.double() + 1e-20)
    recall = true_at / (positives[:, None] + 1e-20)
    f_beta = (1 + BETA2) * precision * recall / (BETA2 * precision + recall)
    return FrameScores(iou, f_beta.nan_to_num(0.0), sounding, foreground / num_pixels)


def clip_scores(logits: Tensor, masks: Tensor, scored: Tensor) -> ClipScores:
    """Score one clip.

    Args:
        logits: `(T, h, w)`.
        masks: `(T, h, w)`, 0 is background.
        scored: `(T,)` bool, frames that count: those that exist and are labelled.

    Raises:
        ValueError: as `frame_scores`, or if `scored` has another shape.
    """
    if tuple(scored.shape) != tuple(masks.shape[:1]):
        raise ValueError(f"scored: expected {tuple(masks.shape[:1])}, got {tuple(scored.shape)}")
    scored = scored.cpu().bool()
    frames = frame_scores(logits[scored.to(logits.device)], masks[scored.to(masks.device)])
    return ClipScores(
        frames=len(frames.iou),
        sounding=int(frames.sounding.sum()),
        iou=math.fsum(frames.iou.tolist()),
        foreground=math.fsum(frames.foreground.tolist()),
        f_beta=frames.f_beta.sum(0),
    )


def frame_protocol(clips: Sequence[ClipScores]) -> tuple[float, float]:
    """M_J and M_F where every frame counts once.

    M_J is the mean IoU of the scored frames. M_F is the mean F over the frames whose true mask is not empty, at the
    one threshold where this mean is highest; 0 if every true mask is empty.

    Raises:
        ValueError: if no frame is scored.
    """
    frames, sounding = sum(c.frames for c in clips), sum(c.sounding for c in clips)
    if not frames:
        raise ValueError("clips: no frame is labelled, nothing to score")
    iou = math.fsum(c.iou for c in clips) / frames
    # One clip after the other, so that the order of the additions is that of the data set.
    f_beta = sum((c.f_beta for c in clips), torch.zeros_like(THRESHOLDS)) / max(1, sounding)
    return iou, float(f_beta.max())


def avsbench_protocol(clips: Sequence[ClipScores], batch_size: int) -> tuple[float, float]:
    """M_J and M_F as the public scripts give them for S4 and MS3.

    Both scores of `frame_protocol` are taken for each batch of `batch_size` consecutive clips, then the plain mean of
    the batches: M_F has a threshold for each batch, a batch without sound has M_F 0, and a short last batch weighs as
    much as a full one.

    Frames that are unlabelled or padding do not count here either: S4 and MS3 have none in val and test, so the
    scripts' figure is the same, and elsewhere there is no truth to score them by. A batch without a scored frame is
    left out.

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
