"""Other methods from the same backbones, data and metrics, with their own losses: TPAVI, AVSegFormer, CATR."""

from avsmamba.models.baselines.avsegformer import (
    AVSegFormerDecoder,
    AVSegFormerEncoder,
    AVSegFormerHead,
    AVSegFormerMixer,
)
from avsmamba.models.baselines.catr import CATRDecoder, CATREncoder, CATRProjection, CATRPyramid
from avsmamba.models.baselines.losses import AVMLoss
from avsmamba.models.baselines.tpavi import TPAVIHead, TPAVIProjection, TPAVIPyramid

__all__ = [
    "AVMLoss",
    "AVSegFormerDecoder",
    "AVSegFormerEncoder",
    "AVSegFormerHead",
    "AVSegFormerMixer",
    "CATRDecoder",
    "CATREncoder",
    "CATRProjection",
    "CATRPyramid",
    "TPAVIHead",
    "TPAVIProjection",
    "TPAVIPyramid",
]
