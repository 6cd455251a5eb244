"""Backbones: frames `(N, 3, H, W)` to four maps at strides 4, 8, 16 and 32 (Vim without a pyramid: 16 four times)."""

from avsmamba.models.backbones.joint_pvt import JointPVT
from avsmamba.models.backbones.joint_vit import JointViT
from avsmamba.models.backbones.small_conv import SmallConvBackbone
from avsmamba.models.backbones.timm_backbone import TimmBackbone
from avsmamba.models.backbones.vim import Vim
from avsmamba.models.backbones.vmamba import VMamba

__all__ = ["JointPVT", "JointViT", "SmallConvBackbone", "TimmBackbone", "VMamba", "Vim"]
