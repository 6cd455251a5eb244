"""Other methods of the field from the same backbones, data and metrics, with their own losses: TPAVI, AVSegFormer."""

from avsmamba.models.baselines.avsegformer import (
    AVSegFormerDecoder,
    AVSegFormerEncoder,
    AVSegFormerHead,
    AVSegFormerMixer,
)
from avsmamba.models.baselines.losses import AVMLoss
from avsmamba.models.baselines.tpavi import TPAVIHead, TPAVIProjection, TPAVIPyramid

__all__ = [
    "AVMLoss",
    "AVSegFormerDecoder",
    "AVSegFormerEncoder",
    "AVSegFormerHead",
    "AVSegFormerMixer",
    "TPAVIHead",
    "TPAVIProjection",
    "TPAVIPyramid",
]
