"""Pixels marked in silent frames or with a wrong sound, as an mmengine metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from avsmamba.evaluation.metric import clip_fields
from avsmamba.registry import METRICS


@dataclass(frozen=True)
class Marks:
    """Sums over frames of one clip.

    Attributes:
        frames: number of existing frames.
        pixels: sum over those of the share of marked pixels.
        marked: number of those with a marked pixel.
        silent: number of existing, labelled frames whose true mask is empty.
        silent_pixels: sum over those of the share of marked pixels.
        silent_marked: number of those with a marked pixel.
    """

    frames: int
    pixels: float
    marked: int
    silent: int
    silent_pixels: float
    silent_marked: int


@METRICS.register_module()
class FalsePositives(BaseMetric):
    """Shares of marked pixels and frames, over all frames and over those whose true mask is empty.

    Results, as floats: `marked/pixels`, the mean share of a frame's pixels that is marked (with a wrong sound this is
    the false-positive rate of AVSBench-Robust, Li et al., 2025); `marked/frames`, the share of frames with a marked
    pixel; `silent/count`, the number of labelled frames whose true mask is empty, and `silent/pixels` and
    `silent/frames`, the same two shares of those (0 without such frames). A pixel is marked if p > 0.5, or with several
    classes (`pred_labels`) if the class is not 0, the background.
    """

    def __init__(self) -> None:
        super().__init__(collect_device="gpu")  # see AVSMetric

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append one item per clip.

        Args:
            data_batch: not used.
            data_samples: `AVSDataSample`s, or dicts of their fields, with predictions.

        Raises:
            ValueError: naming clip and field, if a field is missing or has another shape.
        """
        self.results.extend(marks(sample) for sample in data_samples)

    def compute_metrics(self, results: list[Marks]) -> dict[str, float]:
        """Compute the shares over all clips.

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
    """Count the marked pixels and frames of one clip."""
    semantic = sample.get("pred_labels") is not None
    prediction, masks, scored, exists = clip_fields(
        sample, *(("pred_labels", ()) if semantic else ("pred_logits", (1,)))
    )
    # In float64 as the scores: float32 rounds a p just above 0.5 down.
    marked = prediction != 0 if semantic else torch.sigmoid(prediction[:, 0].double()) > 0.5
    share = marked.flatten(1).double().mean(1).cpu()
    silent = scored & ~(masks != 0).flatten(1).any(1).cpu()
    return Marks(
        frames=int(exists.sum()),
        pixels=math.fsum(share[exists].tolist()),
        marked=int((share[exists] > 0).sum()),
        silent=int(silent.sum()),
        silent_pixels=math.fsum(share[silent].tolist()),
        silent_marked=int((share[silent] > 0).sum()),
    )
