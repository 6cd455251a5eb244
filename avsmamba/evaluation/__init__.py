"""AVSBench's scores as pure functions and as a metric; importing this registers the metrics."""

from avsmamba.evaluation.false_positives import FalsePositives
from avsmamba.evaluation.metric import AVSMetric
from avsmamba.evaluation.scores import avsbench_protocol, clip_scores, frame_protocol, frame_scores

__all__ = ["AVSMetric", "FalsePositives", "avsbench_protocol", "clip_scores", "frame_protocol", "frame_scores"]
