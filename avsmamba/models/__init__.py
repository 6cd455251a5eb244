"""The model and its parts; importing this registers them."""

from avsmamba.models import audio, backbones, baselines, sets
from avsmamba.models.cip import ContextualIntegrationPyramid
from avsmamba.models.data_preprocessor import AVSDataPreprocessor
from avsmamba.models.head import AudioQueryHead
from avsmamba.models.losses import BCELoss, CrossEntropyLoss, DiceLoss, StructureLoss
from avsmamba.models.mad import ModalityAggregationDecoder
from avsmamba.models.mte import MultiScaleTemporalEncoder
from avsmamba.models.projection import Projection
from avsmamba.models.segmentor import AVSSegmentor

__all__ = [
    "AVSDataPreprocessor",
    "AVSSegmentor",
    "AudioQueryHead",
    "BCELoss",
    "ContextualIntegrationPyramid",
    "CrossEntropyLoss",
    "DiceLoss",
    "ModalityAggregationDecoder",
    "MultiScaleTemporalEncoder",
    "Projection",
    "StructureLoss",
    "audio",
    "backbones",
    "baselines",
    "sets",
]
