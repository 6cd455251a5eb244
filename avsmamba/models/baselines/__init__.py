"""Other methods of the field from the same backbones, data and metrics, with their own losses."""

from avsmamba.models.baselines.avsac import AVFSLoss, AVSACHead
from avsmamba.models.baselines.avsegformer import (
    AVSegFormerDecoder,
    AVSegFormerHead,
    AVSegFormerMixer,
)
from avsmamba.models.baselines.catr import CATRDecoder, CATREncoder, CATRProjection, CATRPyramid
from avsmamba.models.baselines.ecmvae import ECMVAELatents, ECMVAEPyramid, ECMVAESegmentor
from avsmamba.models.baselines.ecmvae_losses import ECMVAELoss
from avsmamba.models.baselines.losses import AVMLoss
from avsmamba.models.baselines.tpavi import TPAVIHead, TPAVIProjection, TPAVIPyramid
from avsmamba.models.layers.deformable_encoder import AVSegFormerEncoder
from avsmamba.models.layers.refinenet import BasicNeckProjection

__all__ = [
    "AVFSLoss",
    "AVMLoss",
    "AVSACHead",
    "AVSegFormerDecoder",
    "AVSegFormerEncoder",
    "AVSegFormerHead",
    "AVSegFormerMixer",
    "BasicNeckProjection",
    "CATRDecoder",
    "CATREncoder",
    "CATRProjection",
    "CATRPyramid",
    "ECMVAELatents",
    "ECMVAELoss",
    "ECMVAEPyramid",
    "ECMVAESegmentor",
    "TPAVIHead",
    "TPAVIProjection",
    "TPAVIPyramid",
]
