"""Mask2Former's pixel decoder: deformable attention over the coarse maps, then up to the finest one."""

import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import RATE, counts, limits
from avsmamba.models.layers.deformable_encoder import AVSegFormerEncoder
from avsmamba.registry import MODELS


@MODELS.register_module()
class DeformablePixelDecoder(nn.Module):
    """Encoder of AVSSegmentor whose first map are the mask features, so that `pyramid` is `null`.

    Maps 2 to 4 (strides 8, 16 and 32) pass through layers of multi-scale deformable self-attention. Mask features: map
    1 plus the upsampled map 2, a 3 x 3 convolution with group normalisation and ReLU, a 1 x 1 convolution. The
    projection of AVSSegmentor takes the place of the 1 x 1 convolutions with group normalisation before it.

    Source: Mask2Former (Cheng et al., CVPR 2022, Sec. 4); each frame is decoded alone.

    Args:
        embed_dims: channels C, a multiple of 4.
        num_layers: layers of deformable attention.
        num_heads: attention heads.
        num_points: samples a head and scale.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches.
    """

    @limits(**counts("embed_dims", "num_layers", "num_heads", "num_points", "ffn_dims"), dropout=RATE)
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dims: int = 1024,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.encoder = AVSegFormerEncoder(embed_dims, num_layers, (2, 3, 4), num_heads, num_points, ffn_dims, dropout)
        for layer in self.encoder.layers:
            layer.ffn[1] = nn.ReLU()  # AVSegFormer's is a GELU
        self.smooth = nn.Sequential(
            nn.Conv2d(embed_dims, embed_dims, 3, padding=1, bias=False),
            nn.GroupNorm(max(1, embed_dims // 8), embed_dims),
            nn.ReLU(),
        )
        self.mask_features = nn.Conv2d(embed_dims, embed_dims, 1)
        for conv in (self.smooth[0], self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map four `(B, T, h_i, w_i, C)` maps, finest first, to mask features and three encoded maps, same shapes."""
        return self.with_mask_features(self.encoder(maps))

    def with_mask_features(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the same maps with mask features in the place of the first, from maps 1 and 2."""
        fine, *coarse = maps
        lead = fine.shape[:2]
        x, up = (m.flatten(0, 1).permute(0, 3, 1, 2) for m in (fine, coarse[0]))
        x = x + F.interpolate(up, size=x.shape[-2:], mode="bilinear", align_corners=False)
        features = self.mask_features(self.smooth(x))
        return [features.permute(0, 2, 3, 1).unflatten(0, lead), *coarse]
