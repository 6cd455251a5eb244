"""Pictures of clips, predicted masks on disk and the demo's page; importing this registers the hook."""

from avsmamba.visualization.hook import VisualizationHook
from avsmamba.visualization.pictures import clip_picture, semantic_picture

__all__ = ["VisualizationHook", "clip_picture", "semantic_picture"]
