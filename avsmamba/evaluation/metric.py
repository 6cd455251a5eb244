"""The scores as an mmengine metric."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from avsmamba.evaluation.scores import ClipScores, avsbench_protocol, clip_scores, frame_protocol
from avsmamba.registry import METRICS


@METRICS.register_module()
class AVSMetric(BaseMetric):
    """M_J and M_F of binary masks under both protocols of `avsmamba.evaluation.scores`.

    Gives, as floats: `M_J`, `M_F` (protocol frame), `avsbench/M_J`, `avsbench/M_F`, `avsbench/batch_size`, `clips`,
    `frames` (those scored: existing and labelled) and `foreground` (mean share of a scored frame's pixels that is
    predicted as foreground). None depends on the data loader's batch size or on the number of processes.

    Args:
        batch_size: clips in a batch of protocol avsbench. The default is that of the public test commands: AVSBench's
            `test.sh` of S4 and of MS3, and AVSegFormer's configs (AVSBench's `test.py` alone would take 1).

    Raises:
        ValueError: if `batch_size` is not a positive integer.
    """

    def __init__(self, batch_size: int = 4):
        # 'gpu' gathers through the process group, on the CPU with gloo; 'cpu' leaves a folder .dist_test behind.
        super().__init__(collect_device="gpu")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}")
        self.batch_size = batch_size

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append one item for each clip: the gathering cuts the items to the data set's length.

        Args:
            data_batch: not used.
            data_samples: `AVSDataSample`s, or dicts of their fields, with predictions.

        Raises:
            ValueError: if a field is missing or its shape does not fit, or a logit is NaN; names clip and field.
        """
        self.results.extend(_score(sample) for sample in data_samples)

    def compute_metrics(self, results: list[ClipScores]) -> dict[str, float]:
        """All scores from the clips' items in data-set order.

        Raises:
            ValueError: if no frame is labelled.
        """
        m_j, m_f = frame_protocol(results)
        batch_j, batch_f = avsbench_protocol(results, self.batch_size)
        frames = sum(clip.frames for clip in results)
        return {
            "M_J": m_j,
            "M_F": m_f,
            "avsbench/M_J": batch_j,
            "avsbench/M_F": batch_f,
            "avsbench/batch_size": float(self.batch_size),
            "clips": float(len(results)),
            "frames": float(frames),
            "foreground": math.fsum(clip.foreground for clip in results) / frames,
        }


def _score(sample: Any) -> ClipScores:
    clip = sample.get("clip", "a clip")
    names = ("pred_logits", "gt_masks", "gt_temporal_mask_flag", "vid_temporal_mask_flag")
    fields = [sample.get(name) for name in names]
    for name, value in zip(names, fields, strict=True):
        if value is None:
            raise ValueError(f"{clip}: {name} is missing")
    logits, masks, labelled, exists = fields
    if masks.ndim != 3:
        raise ValueError(f"{clip}: gt_masks: expected (T, h, w), got {tuple(masks.shape)}")
    num_frames, height, width = masks.shape
    expected = (num_frames, 1, height, width)
    if tuple(logits.shape) != expected:
        raise ValueError(
            f"{clip}: pred_logits: expected {expected} (T, one class, size of gt_masks), got {tuple(logits.shape)}"
        )
    for name, flag in zip(names[2:], (labelled, exists), strict=True):
        if tuple(flag.shape) != (num_frames,):
            raise ValueError(f"{clip}: {name}: expected ({num_frames},) like gt_masks, got {tuple(flag.shape)}")
    try:
        return clip_scores(logits[:, 0], masks, labelled.cpu().bool() & exists.cpu().bool())
    except ValueError as error:
        raise ValueError(f"{clip}: {error}") from None
