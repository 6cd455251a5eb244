"""AVSBench's scores as functions and as metrics; importing the package registers the metrics."""

from avsmamba.evaluation.conventions import CONVENTIONS, clip_counts, convention_scores
from avsmamba.evaluation.false_positives import FalsePositives
from avsmamba.evaluation.metric import AVSMetric, AVSSMetric
from avsmamba.evaluation.scores import avsbench_protocol, clip_scores, frame_protocol, frame_scores
from avsmamba.evaluation.semantic import (
    semantic_clip_counts,
    semantic_clip_scores,
    semantic_conventions,
    semantic_scores,
)

__all__ = [
    "CONVENTIONS",
    "AVSMetric",
    "AVSSMetric",
    "FalsePositives",
    "avsbench_protocol",
    "clip_counts",
    "clip_scores",
    "convention_scores",
    "frame_protocol",
    "frame_scores",
    "semantic_clip_counts",
    "semantic_clip_scores",
    "semantic_conventions",
    "semantic_scores",
]
