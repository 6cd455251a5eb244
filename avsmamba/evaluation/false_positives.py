"""What a model marks where nothing sounds, as an mmengine metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from avsmamba.registry import METRICS


@dataclass(frozen=True)
class Marks:
    """Sums over frames of one clip; `pixels` are shares of a frame.

    Attributes:
        frames: frames that exist.
        pixels: share of pixels marked, summed over those.
        marked: how many of those have a marked pixel.
        silent: frames that exist, are labelled, and whose own mask is empty.
        silent_pixels: share of pixels marked, summed over those.
        silent_marked: how many of those have a marked pixel.
    """

    frames: int
    pixels: float
    marked: int
    silent: int
    silent_pixels: float
    silent_marked: int


@METRICS.register_module()
class FalsePositives(BaseMetric):
    """How much is marked, and how much of it in frames whose own masks are empty.

    Gives, as floats: `marked/pixels`, the mean share of a frame's pixels that is marked (with a wrong sound this is
    the false-positive rate of AVSBench-Robust, Li et al., 2025); `marked/frames`, the share of frames with a marked
    pixel; `silent/count`, the number of labelled frames whose own mask is empty, and `silent/pixels` and
    `silent/frames`, the same two shares of those (0 without such frames). A pixel is marked where p > 0.5, or with
    several classes (`pred_labels`) where the class is not 0, the background.
    """

    def __init__(self) -> None:
        super().__init__(collect_device="gpu")  # through the process group, as AVSMetric

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append one item for each clip.

        Args:
            data_batch: not used.
            data_samples: `AVSDataSample`s, or dicts of their fields, with predictions.

        Raises:
            ValueError: if a field is missing or its shape does not fit; names clip and field.
        """
        self.results.extend(marks(sample) for sample in data_samples)

    def compute_metrics(self, results: list[Marks]) -> dict[str, float]:
        """The shares, over all clips.

        Raises:
            ValueError: if there is no frame.
        """
        total = {f.name: math.fsum(getattr(clip, f.name) for clip in results) for f in fields(Marks)}
        if not total["frames"]:
            raise ValueError("clips: no frame exists, nothing to score")
        silent = max(1.0, total["silent"])
        return {
            "marked/pixels": total["pixels"] / total["frames"],
            "marked/frames": total["marked"] / total["frames"],
            "silent/count": total["silent"],
            "silent/pixels": total["silent_pixels"] / silent,
            "silent/frames": total["silent_marked"] / silent,
        }


def marks(sample: Any) -> Marks:
    """Count what is marked in one clip."""
    clip = sample.get("clip", "a clip")
    predicted = "pred_logits" if sample.get("pred_labels") is None else "pred_labels"
    names = (predicted, "gt_masks", "gt_temporal_mask_flag", "vid_temporal_mask_flag")
    values = [sample.get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise ValueError(f"{clip}: {name} is missing")
    prediction, masks, labelled, exists = values
    marked = prediction != 0 if predicted == "pred_labels" else marked_pixels(prediction)
    if marked.shape != masks.shape:
        raise ValueError(f"{clip}: {predicted}: expected {tuple(masks.shape)} (T, h, w), got {tuple(marked.shape)}")
    share = marked.flatten(1).double().mean(1).cpu()
    exists = exists.cpu().bool()
    silent = exists & labelled.cpu().bool() & ~(masks != 0).flatten(1).any(1).cpu()
    return Marks(
        frames=int(exists.sum()),
        pixels=math.fsum(share[exists].tolist()),
        marked=int((share[exists] > 0).sum()),
        silent=int(silent.sum()),
        silent_pixels=math.fsum(share[silent].tolist()),
        silent_marked=int((share[silent] > 0).sum()),
    )


def marked_pixels(logits: Tensor) -> Tensor:
    """`(T, 1, h, w)` logits to `(T, h, w)` bool."""
    # In float64 as the scores: float32 rounds a p just above 0.5 down.
    return torch.sigmoid(logits[:, 0].double()) > 0.5
