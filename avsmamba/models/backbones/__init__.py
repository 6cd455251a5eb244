"""Backbones: frames `(N, 3, H, W)` to four maps at strides 4, 8, 16 and 32."""

from avsmamba.models.backbones.small_conv import SmallConvBackbone
from avsmamba.models.backbones.timm_backbone import TimmBackbone

__all__ = ["SmallConvBackbone", "TimmBackbone"]
