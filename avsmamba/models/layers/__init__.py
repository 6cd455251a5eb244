"""Blocks of the model's parts."""

from avsmamba.models.layers.fusion import A2VFusionBlock, V2AFusionBlock
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.models.layers.visual_mamba import MixFFN, TemporalMambaBlock, VSSBlock

__all__ = [
    "A2VFusionBlock",
    "MixFFN",
    "MultiDirectionalSSM",
    "SSMOptions",
    "TemporalMambaBlock",
    "V2AFusionBlock",
    "VSSBlock",
]
