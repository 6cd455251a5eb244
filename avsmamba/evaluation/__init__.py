"""AVSBench's scores as pure functions and as a metric; importing this registers the metric."""

from avsmamba.evaluation.metric import AVSMetric
from avsmamba.evaluation.scores import avsbench_protocol, clip_scores, frame_protocol, frame_scores

__all__ = ["AVSMetric", "avsbench_protocol", "clip_scores", "frame_protocol", "frame_scores"]
