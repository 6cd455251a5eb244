"""The scores as mmengine metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.evaluator import BaseMetric
from torch import Tensor

from avsmamba.evaluation.conventions import SIZES, clip_counts, convention_key, convention_scores, nearest
from avsmamba.evaluation.scores import FrameCounts, avsbench_protocol, clip_sums, frame_protocol, scores_of
from avsmamba.evaluation.semantic import ClassCounts, semantic_clip_counts, semantic_conventions, semantic_scores
from avsmamba.evaluation.semantic import clip_sums as semantic_clip_sums
from avsmamba.registry import METRICS

_NAMES = ("M_J", "M_F")


@METRICS.register_module()
class AVSMetric(BaseMetric):
    """M_J and M_F of binary masks under every convention of the public scripts, in one pass.

    Results, as floats: `M_J`, `M_F` (protocol frame), `avsbench/M_J`, `avsbench/M_F`, `avsbench/batch_size`, `clips`,
    `frames` (existing and labelled ones) and `foreground` (mean share of a scored frame's pixels predicted as
    foreground); with `conventions` also `conventions/{key}/M_J` and `/M_F` for each convention of
    `avsmamba.evaluation.conventions`, and `convention/{name}/M_J` and `/M_F` for the selected one. They depend neither
    on the data loader's batch size nor on the number of processes.

    Args:
        batch_size: clips in a batch of protocol avsbench. The default is that of AVSBench's `test.sh` for S4 and MS3
            (the default of its `test.py` is 1; AVSegFormer's configs have 2).
        convention: the paper whose score `tools/test.py` prints first: `avs_mamba`, `avsegformer`, `avsbench`, `tpavi`,
            `avsbigen`, `combo`, `selm` or `frame`, see docs/scores.md. All conventions are computed in any case.
        conventions: whether to score under all conventions. Validation during training does so only if its config sets
            this.

    Raises:
        ValueError: if `batch_size` is not a positive integer, or the convention is unknown.
    """

    def __init__(self, batch_size: int = 4, convention: str = "avs_mamba", conventions: bool = True):
        # 'gpu' gathers through the process group, also on the CPU with gloo; 'cpu' leaves a folder .dist_test.
        super().__init__(collect_device="gpu")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}")
        self.batch_size = batch_size
        self.convention, self.key = convention, convention_key(convention, semantic=False)
        self.sizes = SIZES if conventions else SIZES[:1]
        self.conventions = conventions

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append one item per clip: gathering truncates the items to the length of the data set.

        Args:
            data_batch: not used.
            data_samples: `AVSDataSample`s, or dicts of their fields, with predictions.

        Raises:
            ValueError: naming clip and field, if a field is missing or has another shape, or a logit is NaN.
        """
        for sample in data_samples:
            logits, masks, scored, _ = clip_fields(sample, "pred_logits", (1,))
            with _naming(sample):
                frames = _at_frames(sample, "frame_logits", (len(masks), 1)) if self.conventions else None
                frames = None if frames is None else frames[:, 0]
                self.results.append(clip_counts(logits[:, 0], masks, scored, frames, self.sizes))

    def compute_metrics(self, results: list[dict[str, FrameCounts]]) -> dict[str, float]:
        """Compute all scores from the clips' items in the order of the data set.

        Raises:
            ValueError: if no frame is labelled.
        """
        clips = [clip_sums(scores_of(clip["own"])) for clip in results]
        m_j, m_f = frame_protocol(clips)
        batch_j, batch_f = avsbench_protocol(clips, self.batch_size)
        frames = sum(clip.frames for clip in clips)
        every = convention_scores(results) if self.conventions else {}
        return {
            "M_J": m_j,
            "M_F": m_f,
            "avsbench/M_J": batch_j,
            "avsbench/M_F": batch_f,
            "avsbench/batch_size": float(self.batch_size),
            "clips": float(len(results)),
            "frames": float(frames),
            "foreground": math.fsum(clip.foreground for clip in clips) / frames,
            **_named(every, self.convention, self.key),
        }


@METRICS.register_module()
class AVSSMetric(BaseMetric):
    """M_J and M_F of semantic masks under every convention of `avsmamba.evaluation.semantic`, in one pass.

    Results, as floats: `M_J`, `M_F` (protocol frame, without padded frames), `avsbench/M_J`, `avsbench/M_F` (with
    padded frames, as in the public scripts), the same with `no_background/` (without class 0) and `present/` (classes
    that occur in the truth) under protocol frame, `clips`, `frames`, `foreground` (mean share of a scored frame not
    predicted as background), and for each of the data set's `classes` `class/{name}/IoU`, `class/{name}/F` and
    `class/{name}/frames` (those that contain it); with `conventions` also `conventions/{key}/M_J` and `/M_F`, and
    `convention/{name}/M_J` and `/M_F` for the selected one. They depend neither on the data loader's batch size nor on
    the number of processes.

    Args:
        convention: the paper whose score `tools/test.py` prints first: `avs_mamba`, `avsegformer`, `avsbench`, `tpavi`
            or `frame`, see docs/scores.md. All conventions are computed in any case.
        conventions: whether to score under all conventions, also at 224 x 224. Validation during training does so only
            if its config sets this.

    Raises:
        ValueError: if the convention is unknown.
    """

    def __init__(self, convention: str = "avs_mamba", conventions: bool = True) -> None:
        super().__init__(collect_device="gpu")
        self.convention, self.key = convention, convention_key(convention, semantic=True)
        self.conventions = conventions

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Append one item per clip.

        Args:
            data_batch: not used.
            data_samples: `AVSDataSample`s, or dicts of their fields, with `pred_labels`.

        Raises:
            ValueError: naming clip and field, if a field is missing or has another shape, or an index is too great.
        """
        count = len(self.classes())
        for sample in data_samples:
            labels, masks, scored, exists = clip_fields(sample, "pred_labels", ())
            with _naming(sample):
                found = {"own": semantic_clip_counts(labels, masks, count, scored, exists)}
                if self.conventions and tuple(masks.shape[1:]) == (224, 224):
                    found["224"] = found["own"]
                elif self.conventions:
                    seen = _at_frames(sample, "frame_labels", (len(masks),))
                    both = nearest(labels if seen is None else seen, (224, 224)), nearest(masks, (224, 224))
                    found["224"] = semantic_clip_counts(*both, count, scored, exists)
                self.results.append(found)

    def classes(self) -> Sequence[str]:
        """Return the data set's classes.

        Raises:
            ValueError: if it names fewer than two.
        """
        names = (self.dataset_meta or {}).get("classes", ())
        if len(names) < 2:
            raise ValueError(f"AVSSMetric: needs a data set of two or more classes (AVSBenchAVSS), got {list(names)}")
        return names

    def compute_metrics(self, results: list[dict[str, ClassCounts]]) -> dict[str, float]:
        """Compute all scores from the clips' items.

        Raises:
            ValueError: if no frame is labelled.
        """
        clips = [semantic_clip_sums(clip["own"]) for clip in results]
        scores, public = semantic_scores(clips), semantic_scores(clips, padding=True)
        frames = sum(clip.frames for clip in clips)
        every = semantic_conventions(results) if self.conventions else {}
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
            "foreground": math.fsum(clip.foreground for clip in clips) / frames,
            **_named(every, self.convention, self.key),
        }
        for i, name in enumerate(self.classes()):
            metrics |= {
                f"class/{name}/IoU": float(scores.iou[i]),
                f"class/{name}/F": float(scores.f_beta[i]),
                f"class/{name}/frames": float(scores.true[i]),
            }
        return metrics


def _named(scores: Mapping[str, tuple[float, float]], convention: str, key: str) -> dict[str, float]:
    rows = {f"convention/{convention}": scores[key]} if key in scores else {}
    rows |= {f"conventions/{k}": pair for k, pair in scores.items()}
    return {f"{row}/{name}": m for row, pair in rows.items() for name, m in zip(_NAMES, pair, strict=True)}


def _at_frames(sample: Any, name: str, leading: tuple[int, ...]) -> Tensor | None:
    """Return the prediction at the size of the model's input frames, None if the sample has none."""
    value = sample.get(name)
    if value is not None and (value.ndim != len(leading) + 2 or tuple(value.shape[:-2]) != leading):
        raise ValueError(f"{name}: expected {leading} before height and width, got {tuple(value.shape)}")
    return value


def clip_fields(sample: Any, prediction: str, channels: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return prediction and truth of a clip, and its scored and existing frames, `(T,)` bool on the CPU.

    Raises:
        ValueError: naming clip and field, if one is missing or has another shape.
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
