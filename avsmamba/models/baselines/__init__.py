"""Other methods of the field from the same backbones, data and metrics, with their own losses."""

from avsmamba.models.baselines.aqformer import AQFormerPixelDecoder
from avsmamba.models.baselines.avsac import AVFSLoss, AVSACHead
from avsmamba.models.baselines.avsbigen import AVSBiGenEncoder, AVSBiGenPyramid, GenerationLoss
from avsmamba.models.baselines.avsegformer import (
    AVSegFormerDecoder,
    AVSegFormerHead,
    AVSegFormerMixer,
)
from avsmamba.models.baselines.catr import CATRDecoder, CATREncoder, CATRProjection, CATRPyramid
from avsmamba.models.baselines.combo import COMBODecoder, COMBOEncoder, COMBOHead, COMBOProjection, InterFrameLoss
from avsmamba.models.baselines.ecmvae import ECMVAELatents, ECMVAEPyramid, ECMVAESegmentor
from avsmamba.models.baselines.ecmvae_losses import ECMVAELoss
from avsmamba.models.baselines.encoder_only import EncoderOnlyDecoder, EncoderOnlyFusion, EncoderOnlyProjection
from avsmamba.models.baselines.losses import AVMLoss
from avsmamba.models.baselines.selm import SelMEncoder, SelMFusion, SelMProjection
from avsmamba.models.baselines.selm_decoder import HitMapLoss, SelMDecoder, SelMHead
from avsmamba.models.baselines.tpavi import TPAVIHead, TPAVIProjection, TPAVIPyramid
from avsmamba.models.layers.deformable_encoder import AVSegFormerEncoder
from avsmamba.models.layers.refinenet import BasicNeckProjection

__all__ = [
    "AQFormerPixelDecoder",
    "AVFSLoss",
    "AVMLoss",
    "AVSACHead",
    "AVSBiGenEncoder",
    "AVSBiGenPyramid",
    "AVSegFormerDecoder",
    "AVSegFormerEncoder",
    "AVSegFormerHead",
    "AVSegFormerMixer",
    "BasicNeckProjection",
    "CATRDecoder",
    "CATREncoder",
    "CATRProjection",
    "CATRPyramid",
    "COMBODecoder",
    "COMBOEncoder",
    "COMBOHead",
    "COMBOProjection",
    "ECMVAELatents",
    "ECMVAELoss",
    "ECMVAEPyramid",
    "ECMVAESegmentor",
    "EncoderOnlyDecoder",
    "EncoderOnlyFusion",
    "EncoderOnlyProjection",
    "GenerationLoss",
    "HitMapLoss",
    "InterFrameLoss",
    "SelMDecoder",
    "SelMEncoder",
    "SelMFusion",
    "SelMHead",
    "SelMProjection",
    "TPAVIHead",
    "TPAVIProjection",
    "TPAVIPyramid",
]
