"""A small audio encoder for training from scratch; not from the paper."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avsmamba.limits import counts, limits
from avsmamba.models.audio.patches import per_second
from avsmamba.models.backbones.small_conv import NORM, ConvNorm
from avsmamba.registry import MODELS

# Of a log-mel value: log(x + 0.01) of silence, and about half of the range of sounds above it.
SILENCE, SPREAD = math.log(0.01), 3.0


@MODELS.register_module()
class AudioCNN(nn.Module):
    """Strided convolutions over each second's patch, the mean and the maximum over time, one linear layer.

    Only time is pooled: sources differ in the bands that sound, not only in the texture of the spectrum. Each second is
    encoded independently.

    Args:
        channels: output channels of the convolutions, each of stride 2; at most five.
        out_channels: features of a second.
        norm: 'BN', or 'GN', which removes part of the loudness.
        tokens: return the positions of the last map, each through the linear layer, and pool nothing.

    Attributes:
        out_channels: features of a second.

    Raises:
        ValueError: if the number of convolutions or `norm` does not fit.
    """

    @limits(**counts("channels", "out_channels"), norm=NORM)
    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        out_channels: int = 128,
        norm: str = "BN",
        tokens: bool = False,
    ):
        super().__init__()
        if not 1 <= len(channels) <= 5:
            raise ValueError(f"channels: expected one to five numbers, got {list(channels)}")
        self.tokens, self.out_channels = tokens, out_channels
        layers: list[nn.Module] = []
        for c_in, c_out in zip([1, *channels], channels, strict=False):
            layers += [ConvNorm(c_in, c_out, 2, norm), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.fc = nn.Linear(channels[-1] * (1 if tokens else 2 * (64 >> len(channels))), out_channels)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode.

        Args:
            log_mel: `(B, T, 1, 96, 64)`, one patch a second.

        Returns:
            `(B, T, out_channels)`, or with `tokens` `(B, T, L, out_channels)` of L positions, frequency fastest:
            96 after three convolutions.

        Raises:
            ValueError: if `log_mel` has another shape.
        """
        maps = self.convs((per_second(log_mel) - SILENCE) / SPREAD)
        if self.tokens:
            return self.fc(maps.flatten(2).transpose(1, 2)).unflatten(0, log_mel.shape[:2])
        pooled = torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1).flatten(1)
        return self.fc(pooled).unflatten(0, log_mel.shape[:2])
