"""Pictures of clips and predicted masks on disk; importing this registers the hook."""

from avsmamba.visualization.clip_picture import clip_picture
from avsmamba.visualization.hook import VisualizationHook

__all__ = ["VisualizationHook", "clip_picture"]
