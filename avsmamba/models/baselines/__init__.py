"""Other methods of the field from the same backbones, data and metrics, with their own losses."""

from avsmamba.models.baselines.avsac import AVFSLoss, AVSACHead
from avsmamba.models.baselines.avsegformer import (
    AVSegFormerDecoder,
    AVSegFormerHead,
    AVSegFormerMixer,
)
from avsmamba.models.baselines.catr import CATRDecoder, CATREncoder, CATRProjection, CATRPyramid
from avsmamba.models.baselines.losses import AVMLoss
from avsmamba.models.baselines.selm import SelMEncoder, SelMFusion, SelMProjection
from avsmamba.models.baselines.selm_decoder import HitMapLoss, SelMDecoder, SelMHead
from avsmamba.models.baselines.tpavi import TPAVIHead, TPAVIProjection, TPAVIPyramid
from avsmamba.models.layers.deformable_encoder import AVSegFormerEncoder

__all__ = [
    "AVFSLoss",
    "AVMLoss",
    "AVSACHead",
    "AVSegFormerDecoder",
    "AVSegFormerEncoder",
    "AVSegFormerHead",
    "AVSegFormerMixer",
    "CATRDecoder",
    "CATREncoder",
    "CATRProjection",
    "CATRPyramid",
    "HitMapLoss",
    "SelMDecoder",
    "SelMEncoder",
    "SelMFusion",
    "SelMHead",
    "SelMProjection",
    "TPAVIHead",
    "TPAVIProjection",
    "TPAVIPyramid",
]
