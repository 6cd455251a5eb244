"""Four maps from one, for backbones with one resolution."""

import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of `(N, C, h, w)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, h, w)` to the same shape, `channels_last`."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """A map at stride 16 to maps at strides 4, 8, 16 and 32 (ViTDet: Li et al., 2022, arXiv 2203.16527, Sec. 3).

    Upwards by transposed convolutions (two for stride 4, with norm and GELU between), downwards by max pooling; then a
    1 x 1 and a 3 x 3 convolution for each scale, a norm after each.

    Args:
        in_channels: of the map, a multiple of 4.
        out_channels: of the four maps.

    Raises:
        ValueError: if `in_channels` is no multiple of 4.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        if in_channels % 4:
            raise ValueError(f"in_channels: expected a multiple of 4, got {in_channels}")
        half, quarter = in_channels // 2, in_channels // 4
        scales = [
            (
                quarter,
                [
                    nn.ConvTranspose2d(in_channels, half, 2, 2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ],
            ),
            (half, [nn.ConvTranspose2d(in_channels, half, 2, 2)]),
            (in_channels, []),
            (in_channels, [nn.MaxPool2d(2)]),
        ]
        self.scales = nn.ModuleList(
            nn.Sequential(
                *resample,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for channels, resample in scales
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map `(N, C, h, w)`, h and w even, to four maps of 4, 2, 1 and 1/2 times its size."""
        return [scale(x) for scale in self.scales]
