"""M_J and M_F of binary masks under every convention of the public scripts, from one pass over the predictions.

A convention defines the size at which prediction and truth are compared, what is averaged, how the threshold of F is
chosen, and whether frames with an empty truth count. Its key is `{grouping}/{size}`, plus `/no_empty` if they do not.
See docs/scores.md for the formulas and for the papers that use them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from avsmamba.evaluation.scores import (
    THRESHOLDS,
    ClipScores,
    FrameCounts,
    FrameScores,
    avsbench_protocol,
    clip_sums,
    f_measure,
    frame_counts,
    frame_protocol,
    scores_of,
)

SIZES = ("own", "224", "512_soft")
BATCHES = (1, 2, 4)
NO_EMPTY = "/no_empty"


class Convention(NamedTuple):
    """Keys of the scores in a paper: of binary masks (S4, MS3) and of several classes (AVSS), or None."""

    binary: str
    semantic: str | None


CONVENTIONS = {
    "avs_mamba": Convention("batch_1/512_soft", "avsbench/224"),
    "avsegformer": Convention("batch_2/224", "avsbench/224"),
    "avsbench": Convention("batch_4/224", "avsbench/224"),
    "tpavi": Convention("batch_4/224", "avsbench/224"),
    "avsbigen": Convention("batch_1/224", None),
    "combo": Convention("batch_1/224", "avsbench/224"),
    "selm": Convention("batch_2/224", "avsbench/224"),
    "frame": Convention("frame/own", "frame/own"),
}


def convention_key(name: str, semantic: bool) -> str:
    """Return the key of the score that a named convention's paper reports.

    Raises:
        ValueError: if no convention of such masks has this name.
    """
    keys = {n: c.semantic if semantic else c.binary for n, c in CONVENTIONS.items()}
    if not isinstance(name, str) or keys.get(name) is None:
        raise ValueError(f"convention: expected one of {', '.join(n for n, k in keys.items() if k)}, got {name!r}")
    return str(keys[name])


def nearest(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `(T, h, w)` class indices by Pillow's NEAREST, uint8."""
    return _by_pillow(masks.cpu().to(torch.uint8).numpy(), size, Image.Resampling.NEAREST)


def soft(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `(T, h, w)` masks, as 0 (background) and 255, by Pillow's BILINEAR, uint8."""
    return _by_pillow((masks.cpu() != 0).numpy() * np.uint8(255), size, Image.Resampling.BILINEAR)


def _by_pillow(masks: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> Tensor:
    resized = np.empty((len(masks), *size), np.uint8)
    for picture, mask in zip(resized, masks, strict=True):
        picture[:] = np.asarray(Image.fromarray(mask).resize(size[::-1], method))
    return torch.from_numpy(resized)


def clip_counts(
    logits: Tensor, masks: Tensor, scored: Tensor, frame_logits: Tensor | None = None, sizes: Sequence[str] = SIZES
) -> dict[str, FrameCounts]:
    """Count the pixels of one clip at each size.

    `own` compares `logits` and `masks` unchanged. `224` and `512_soft` compare `frame_logits`, resized bilinearly
    (float64, pixel centres, no smoothing) to 224 x 224 and 512 x 512, with the truth resized by `nearest` and `soft`.
    For masks of 224 x 224, `224` equals `own`.

    Args:
        logits: `(T, h, w)`.
        masks: `(T, h, w)`, 0 is background.
        scored: `(T,)` bool, the existing and labelled frames.
        frame_logits: `(T, H, W)`, at the size of the model's input frames; None takes `logits`.
        sizes: some of `SIZES`; `own` is always counted.

    Raises:
        ValueError: as `frame_counts`.
    """
    scored = scored.cpu().bool()
    truth = (masks[scored.to(masks.device)] != 0).to(torch.uint8)
    counts = {"own": frame_counts(logits[scored.to(logits.device)], truth)}
    seen = logits if frame_logits is None else frame_logits
    seen = seen[scored.to(seen.device)]
    for size in sizes:
        if size == "own":
            continue
        side = (512, 512) if size == "512_soft" else (224, 224)
        if size == "224" and tuple(masks.shape[1:]) == side:
            counts[size] = counts["own"]
            continue
        target, unit = (soft(truth, side), 255) if size == "512_soft" else (nearest(truth, side), 1)
        # Frame by frame: the float64 maps of ten frames of 512 x 512 are 21 MB.
        found = [frame_counts(resized(x, side)[None], g[None], unit) for x, g in zip(seen, target, strict=True)]
        counts[size] = _joined([frame_counts(torch.empty(0, *side), target[:0], unit), *found])
    return counts


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `(h, w)` logits bilinearly, by pixel centres and in float64."""
    if tuple(logits.shape) == size:
        return logits
    return F.interpolate(logits.double()[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _joined(parts: Sequence[FrameCounts]) -> FrameCounts:
    first, names = parts[0], ("true", "predicted", "both", "true_at", "predicted_at")
    return FrameCounts(first.pixels, first.unit, *(torch.cat([getattr(p, name) for p in parts]) for name in names))


def convention_scores(clips: Sequence[Mapping[str, FrameCounts]]) -> dict[str, tuple[float, float]]:
    """Return M_J and M_F by key of the convention, for clips in the order of the data set.

    A convention without a frame to score (`/no_empty` if every truth is empty) is omitted.
    """
    scores: dict[str, tuple[float, float]] = {}
    for size in clips[0]:
        counts = [clip[size] for clip in clips]
        frames = [scores_of(clip) for clip in counts]
        for suffix in ("", NO_EMPTY):
            found = grouped_scores(counts, frames, with_empty=not suffix)
            scores |= {f"{grouping}/{size}{suffix}": pair for grouping, pair in found.items()}
    return scores


def grouped_scores(
    counts: Sequence[FrameCounts], frames: Sequence[FrameScores], with_empty: bool
) -> dict[str, tuple[float, float]]:
    """Return M_J and M_F for each grouping, at one size.

    Args:
        counts: one item per clip.
        frames: their scores.
        with_empty: whether frames with an empty truth count.
    """
    sums = [clip_sums(clip, with_empty) for clip in frames]
    if not any(clip.frames for clip in sums):
        return {}
    m_j, m_f = frame_protocol(sums)
    return {
        "frame": (m_j, m_f),
        "frame_best": (m_j, best_of_each_frame(frames)),
        **{f"batch_{size}": avsbench_protocol(sums, size) for size in BATCHES},
        "video": video_scores(sums),
        "pooled": pooled_scores(counts, with_empty),
    }


def best_of_each_frame(frames: Sequence[FrameScores]) -> float:
    """Return M_F with a threshold per frame: the mean of the sounding frames' greatest F; 0 without any."""
    best = [value for clip in frames for value in clip.f_beta[clip.sounding].amax(1).tolist()]
    return math.fsum(best) / max(1, len(best))


def video_scores(clips: Sequence[ClipScores]) -> tuple[float, float]:
    """Return M_J and M_F with equal weights of all clips.

    M_J is the mean over clips of the mean IoU of the clip's frames. M_F averages F over the clip's sounding frames,
    then over the clips that have any, and takes the threshold that maximizes this mean; 0 without any. Clips without a
    scored frame are excluded.
    """
    scored, sounding = [c for c in clips if c.frames], [c for c in clips if c.sounding]
    iou = math.fsum(c.iou / c.frames for c in scored) / len(scored)
    f_beta = sum((c.f_beta / c.sounding for c in sounding), torch.zeros_like(THRESHOLDS)) / max(1, len(sounding))
    return iou, float(f_beta.max())


def pooled_scores(clips: Sequence[FrameCounts], with_empty: bool) -> tuple[float, float]:
    """Return M_J and M_F of counts that are summed over all frames before the division.

    Frames with an empty truth add only their predicted pixels, to the union and to the predictions.
    """
    kept = [slice(None) if with_empty else clip.true > 0 for clip in clips]

    def total(name: str, unit: bool = True) -> Tensor:
        sums = [
            getattr(c, name)[k].long().sum(0).double() / (c.unit if unit else 1)
            for c, k in zip(clips, kept, strict=True)
        ]
        return torch.stack(sums).sum(0)

    true, both, predicted = total("true"), total("both"), total("predicted", unit=False)
    f_beta = f_measure(total("true_at"), total("predicted_at", unit=False), true)
    return float(both / (predicted + true - both + 1e-7)), float(f_beta.max())
