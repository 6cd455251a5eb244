"""Depthwise convolutions on channels-last tokens, as they stand before every scan (Fig. 3 and 4, Eq. 11 and 12)."""

import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise 3 x 3 convolution over the last two axes of `(..., h, w, E)` tokens; one kernel for all frames."""

    def __init__(self, channels: int, kernel_size: int = 3):
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, h, w, E)` to the same shape. The permuted view is `channels_last`: nothing is copied."""
        frames = x.flatten(0, 1).permute(0, 3, 1, 2)
        return super().forward(frames).permute(0, 2, 3, 1).view_as(x)


class DepthwiseConv3d(nn.Conv3d):
    """Depthwise 3 x 3 x 3 convolution over time, height and width of `(B, T, h, w, E)` tokens."""

    def __init__(self, channels: int, kernel_size: int = 3):
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, h, w, E)` to the same shape. The permuted view is `channels_last_3d`."""
        return super().forward(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class CausalConv1d(nn.Conv1d):
    """Depthwise causal convolution over time: the output of second t depends on seconds t, t - 1, … only."""

    def __init__(self, channels: int, kernel_size: int = 4):
        super().__init__(channels, channels, kernel_size, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, E)` to the same shape."""
        padded = F.pad(x.transpose(1, 2), (self.kernel_size[0] - 1, 0))
        return super().forward(padded).transpose(1, 2)


DEPTHWISE: dict[str, type[DepthwiseConv2d] | type[DepthwiseConv3d]] = {"2d": DepthwiseConv2d, "3d": DepthwiseConv3d}


def depthwise_conv(kind: str, channels: int) -> DepthwiseConv2d | DepthwiseConv3d:
    """Build the visual convolution by name.

    Raises:
        ValueError: if `kind` is neither '2d' nor '3d'.
    """
    if kind not in DEPTHWISE:
        raise ValueError(f"conv: expected one of {sorted(DEPTHWISE)}, got {kind!r}")
    return DEPTHWISE[kind](channels)
