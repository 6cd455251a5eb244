"""Set prediction (Mask2Former, Cheng et al., CVPR 2022): several masks, each with a class, for every frame."""

from avsmamba.models.sets.losses import SetLoss
from avsmamba.models.sets.masked_attention import MaskedAttentionDecoder, QueryMasks
from avsmamba.models.sets.matcher import HungarianMatcher
from avsmamba.models.sets.pixel_decoder import DeformablePixelDecoder
from avsmamba.models.sets.query_head import QuerySetHead

__all__ = [
    "DeformablePixelDecoder",
    "HungarianMatcher",
    "MaskedAttentionDecoder",
    "QueryMasks",
    "QuerySetHead",
    "SetLoss",
]
