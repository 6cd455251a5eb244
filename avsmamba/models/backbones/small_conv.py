"""A small residual network for training from scratch on a CPU."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, counts, limits, one_of
from avsmamba.models.layers.stage_fusion import Between, unchanged
from avsmamba.registry import MODELS

NORM = one_of(("BN", "GN"))


def make_norm(norm: str, channels: int) -> nn.Module:
    """Build a batch normalisation, or a group normalisation with 8 channels a group.

    Raises:
        ValueError: if groups of 8 do not divide the channels.
    """
    if norm == "BN":
        return nn.BatchNorm2d(channels)
    if channels % 8:
        raise ValueError(f"channels: expected multiples of 8 for norm 'GN', got {channels}")
    return nn.GroupNorm(channels // 8, channels)


class ConvNorm(nn.Sequential):
    """3 x 3 convolution without bias, normalisation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            make_norm(norm, out_channels),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al., 2016, Fig. 2)."""

    def __init__(self, channels: int, norm: str):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 1, norm)
        self.conv2 = ConvNorm(channels, channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, h, w)` to the same shape."""
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


@MODELS.register_module()
class SmallConvBackbone(nn.Module):
    """Four stages, each a strided convolution and residual blocks, after a strided stem.

    Args:
        channels: channels of the four maps.
        depths: residual blocks of each stage.
        stem_channels: channels at stride 2.
        norm: 'BN' or 'GN'.

    Attributes:
        out_channels: channels of the four maps.
        strides: `[4, 8, 16, 32]`.

    Raises:
        ValueError: if there are not four stages, or `norm` is unknown.
    """

    has_stages = True

    @limits(**counts("channels", "stem_channels"), depths=AT_LEAST_0, norm=NORM)
    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 96, 128),
        depths: Sequence[int] = (1, 1, 1, 1),
        stem_channels: int = 16,
        norm: str = "BN",
    ):
        super().__init__()
        for name, value in (("channels", channels), ("depths", depths)):
            if len(value) != 4:
                raise ValueError(f"{name}: expected one for each of four stages, got {list(value)}")
        self.out_channels = list(channels)
        self.strides = [4, 8, 16, 32]
        self.stem = ConvNorm(3, stem_channels, 2, norm)
        self.stages = nn.ModuleList()
        for c_in, c_out, depth in zip([stem_channels, *channels], channels, depths, strict=False):
            blocks = [ResidualBlock(c_out, norm) for _ in range(depth)]
            self.stages.append(nn.Sequential(ConvNorm(c_in, c_out, 2, norm), nn.ReLU(), *blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, between: Between = unchanged) -> list[Tensor]:
        """Extract.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 32.
            between: changes the map of each stage.

        Returns:
            four `channels_last` maps `(N, C_i, H / s_i, W / s_i)`, finest first.
        """
        x = F.relu(self.stem(x.contiguous(memory_format=torch.channels_last)))
        maps = []
        for i, stage in enumerate(self.stages):
            x = between(i, stage(x))
            maps.append(x)
        return maps
