"""The scores as an mmengine metric."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.evaluator import BaseMetric
from torch import Tensor

from avsmamba.evaluation.scores import ClipScores, avsbench_protocol, clip_scores, frame_protocol
from avsmamba.evaluation.semantic import SemanticClipScores, semantic_clip_scores, semantic_scores
from avsmamba.registry import METRICS

_NAMES = ("M_J", "M_F")


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


@METRICS.register_module()
class AVSSMetric(BaseMetric):
    """M_J and M_F of semantic masks under both protocols of `avsmamba.evaluation.semantic`.

    Gives, as floats: `M_J`, `M_F` (protocol frame: padded frames are left out), `avsbench/M_J`, `avsbench/M_F` (padded
    frames count as the public scripts count them), the same with `no_background/` (without class 0) and `present/`
    (over the classes that occur in the truth) under protocol frame, `clips`, `frames`, `foreground` (mean share of a
    scored frame's pixels that is predicted as anything but background), and for each class `class/{name}/IoU`,
    `class/{name}/F` and `class/{name}/frames` (those that hold it). None depends on the data loader's batch size or
    on the number of processes.

    The names are the data set's `classes`; there are as many classes as names.
    """

    def __init__(self) -> None:
        super().__init__(collect_device="gpu")

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append one item for each clip.

        Args:
            data_batch: not used.
            data_samples: `AVSDataSample`s, or dicts of their fields, with `pred_labels`.

        Raises:
            ValueError: if a field is missing, its shape does not fit, or an index is too great; names clip and field.
        """
        count = len(self.classes())
        for sample in data_samples:
            labels, masks, scored, exists = _fields(sample, "pred_labels", ())
            with _naming(sample):
                self.results.append(semantic_clip_scores(labels, masks, count, scored, exists))

    def classes(self) -> Sequence[str]:
        """The data set's classes.

        Raises:
            ValueError: if it names fewer than two.
        """
        names = (self.dataset_meta or {}).get("classes", ())
        if len(names) < 2:
            raise ValueError(f"AVSSMetric: needs a data set of two or more classes (AVSBenchAVSS), got {list(names)}")
        return names

    def compute_metrics(self, results: list[SemanticClipScores]) -> dict[str, float]:
        """All scores from the clips' items.

        Raises:
            ValueError: if no frame is labelled.
        """
        scores, public = semantic_scores(results), semantic_scores(results, padding=True)
        frames = sum(clip.frames for clip in results)
        groups = {
            "": scores.mean(),
            "avsbench/": public.mean(),
            "no_background/": scores.without_background(),
            "avsbench/no_background/": public.without_background(),
            "present/": scores.present(),
        }
        metrics = {f"{group}{name}": m for group, pair in groups.items() for name, m in zip(_NAMES, pair, strict=True)}
        metrics |= {
            "clips": float(len(results)),
            "frames": float(frames),
            "foreground": math.fsum(clip.foreground for clip in results) / frames,
        }
        for i, name in enumerate(self.classes()):
            metrics |= {
                f"class/{name}/IoU": float(scores.iou[i]),
                f"class/{name}/F": float(scores.f_beta[i]),
                f"class/{name}/frames": float(scores.true[i]),
            }
        return metrics


def _score(sample: Any) -> ClipScores:
    logits, masks, scored, _ = _fields(sample, "pred_logits", (1,))
    with _naming(sample):
        return clip_scores(logits[:, 0], masks, scored)


def _fields(sample: Any, prediction: str, channels: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prediction and truth of a clip, its frames that are scored and those that exist.

    Raises:
        ValueError: naming clip and field.
    """
    clip = sample.get("clip", "a clip")
    names = (prediction, "gt_masks", "gt_temporal_mask_flag", "vid_temporal_mask_flag")
    fields = [sample.get(name) for name in names]
    for name, value in zip(names, fields, strict=True):
        if value is None:
            raise ValueError(f"{clip}: {name} is missing")
    predicted, masks, labelled, exists = fields
    if masks.ndim != 3:
        raise ValueError(f"{clip}: gt_masks: expected (T, h, w), got {tuple(masks.shape)}")
    num_frames, height, width = masks.shape
    expected = (num_frames, *channels, height, width)
    if tuple(predicted.shape) != expected:
        what = "T, one class, size of gt_masks" if channels else "T, size of gt_masks"
        raise ValueError(f"{clip}: {prediction}: expected {expected} ({what}), got {tuple(predicted.shape)}")
    for name, flag in zip(names[2:], (labelled, exists), strict=True):
        if tuple(flag.shape) != (num_frames,):
            raise ValueError(f"{clip}: {name}: expected ({num_frames},) like gt_masks, got {tuple(flag.shape)}")
    exists = exists.cpu().bool()
    return predicted, masks, labelled.cpu().bool() & exists, exists


@contextmanager
def _naming(sample: Any) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{sample.get('clip', 'a clip')}: {error}") from None
