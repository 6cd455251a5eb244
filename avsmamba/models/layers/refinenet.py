"""Neck and decoder of AVSBiGen and ECMVAE: convolutions with batch normalisation, RefineNet's top-down path.

Source: AVSBiGen (AAAI 2024) and ECMVAE (ICCV 2023). The last layers behind the decoder are `TPAVIHead` with
`hidden_dims: [64, 32]`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import counts, limits, one_of
from avsmamba.models.projection import AUDIO_NORM, project_maps
from avsmamba.registry import MODELS


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, relu: bool) -> nn.Sequential:
    """Return a convolution of stride 1 that keeps the size, a batch normalisation and, with `relu`, a ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU() if relu else nn.Identity())


@MODELS.register_module()
class BasicNeckProjection(nn.Module):
    """A 1 x 1 and two 3 x 3 convolutions, each with a batch normalisation, for each map; the audio passes unchanged.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio features.
        embed_dims: C.
        activation: after each normalisation, 'none' (the public code: a map's layers are one linear function) or
            'relu'.
        audio_norm: 'BN' normalises the audio features over the batch, 'none' does not (as in `Projection`).
    """

    @limits(**counts("embed_dims"), activation=one_of(("none", "relu")), audio_norm=AUDIO_NORM)
    def __init__(
        self,
        in_channels: Sequence[int],
        audio_channels: int,
        embed_dims: int = 128,
        activation: str = "none",
        audio_norm: str = "none",
    ):
        super().__init__()
        relu = activation == "relu"
        self.visual = nn.ModuleList(
            nn.Sequential(
                conv_norm(channels, embed_dims, 1, relu),
                conv_norm(embed_dims, embed_dims, 3, relu),
                conv_norm(embed_dims, embed_dims, 3, relu),
            )
            for channels in in_channels
        )
        self.audio_norm = nn.BatchNorm1d(audio_channels) if audio_norm == "BN" else nn.Identity()

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Project.

        Args:
            maps: `(B * T, C_i, h_i, w_i)` maps of the backbone.
            audio: `(B, T, C_a)`.

        Returns:
            `(B, T, h_i, w_i, C)` maps and `(B, T, C_a)` audio.
        """
        b, t = audio.shape[:2]
        return project_maps(self.visual, maps, b, t), self.audio_norm(audio.flatten(0, 1)).unflatten(0, (b, t))


class ResidualUnit(nn.Module):
    """x + two times (3 x 3 convolution, batch normalisation, ReLU)."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(*(conv_norm(channels, channels, 3, relu=True) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, h, w)` to the same shape."""
        return x + self.layers(x)


class FusionBlock(nn.Module):
    """A residual unit for the scale's own map, the coarser block's output added, a second unit, nearest x 2."""

    def __init__(self, channels: int):
        super().__init__()
        self.lateral, self.unit = ResidualUnit(channels), ResidualUnit(channels)

    def forward(self, visual: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Map `(N, C, h, w)` and the coarser block's output, of the same shape, to `(N, C, 2 h, 2 w)`."""
        x = self.lateral(visual)
        return F.interpolate(self.unit(x if coarser is None else x + coarser), scale_factor=2, mode="nearest")


class RefineNetDecoder(nn.Module):
    """RefineNet's top-down path over four maps.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(FusionBlock(channels) for _ in range(4))  # coarsest first

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first, each twice as large as the next.

        Returns:
            mask features `(B, T, 2 h_1, 2 w_1, C)`.
        """
        y = None
        for block, visual in zip(self.blocks, reversed(maps), strict=True):
            y = block(rearrange(visual, "b t h w c -> (b t) c h w"), y)
        b, t = maps[0].shape[:2]
        return rearrange(y, "(b t) c h w -> b t h w c", b=b, t=t)
