"""Transformer encoder with multi-scale deformable attention (Zhu et al., ICLR 2021), of AVSegFormer and Mask2Former."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avsmamba.limits import MAP_NUMBER, RATE, counts, limits
from avsmamba.models.layers.deformable import DeformableAttention, Sizes, pixel_centres, sine_positions
from avsmamba.models.layers.scales import flatten_frames, map_sizes, split_frames
from avsmamba.registry import MODELS


def feed_forward(channels: int, hidden: int, dropout: float) -> nn.Sequential:
    """Build two linear layers with a GELU between them."""
    return nn.Sequential(
        nn.Linear(channels, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, channels),
        nn.Dropout(dropout),
    )


def xavier(module: nn.Module) -> None:
    """Initialise all matrices and kernels by Xavier, as the authors do; deformable attention keeps its own start."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    for part in module.modules():
        if isinstance(part, DeformableAttention):
            part.reset_parameters()


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with a residual and a layer normalisation after it."""

    def __init__(self, channels: int, levels: int, heads: int, points: int, ffn_dims: int, dropout: float):
        super().__init__()
        self.attention = DeformableAttention(channels, levels, heads, points)
        self.dropout = nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.ffn = feed_forward(channels, ffn_dims, dropout)

    def forward(self, tokens: Tensor, positions: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """Map `(N, L, C)` tokens of several scales to the same shape."""
        gathered = self.attention(tokens + positions, tokens, reference, sizes)
        tokens = self.norm1(tokens + self.dropout(gathered))
        return self.norm2(tokens + self.ffn(tokens))


@MODELS.register_module()
class AVSegFormerEncoder(nn.Module):
    """Transformer encoder over the tokens of `scales`, frame by frame.

    Args:
        embed_dims: channels C, a multiple of 4.
        num_layers: layers; six in the paper.
        scales: which of the maps 1 to 4 are encoded; the others pass through.
        num_heads: attention heads.
        num_points: samples a head and scale.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches.
    """

    @limits(
        **counts("embed_dims", "num_layers", "num_heads", "num_points", "ffn_dims"), scales=MAP_NUMBER, dropout=RATE
    )
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 6,
        scales: Sequence[int] = (2, 3, 4),
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dims: int = 2048,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.scales = tuple(scales)
        self.level_embed = nn.Parameter(torch.empty(len(self.scales), embed_dims))
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dims, len(self.scales), num_heads, num_points, ffn_dims, dropout)
            for _ in range(num_layers)
        )
        xavier(self)
        nn.init.normal_(self.level_embed)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map four `(B, T, h_i, w_i, C)` maps, finest first, to maps of the same shapes."""
        selected = [maps[s - 1] for s in self.scales]
        sizes = map_sizes(selected)
        tokens = flatten_frames(selected)
        lead, channels, device = tokens.shape[:2], tokens.shape[-1], tokens.device
        level = torch.cat([embed.expand(h * w, -1) for embed, (h, w) in zip(self.level_embed, sizes, strict=True)])
        positions = sine_positions(sizes, channels, device).to(tokens.dtype) + level
        reference = pixel_centres(sizes, device)
        tokens = tokens.flatten(0, 1)
        for layer in self.layers:
            tokens = layer(tokens, positions, reference, sizes)
        encoded = list(maps)
        for scale, new in zip(self.scales, split_frames(tokens.unflatten(0, lead), sizes), strict=True):
            encoded[scale - 1] = new
        return encoded
