"""Depthwise convolutions on channels-last tokens, before every scan (Fig. 3 and 4, Eq. 11 and 12).

Parameters have the names and shapes of torch's own modules; `avsmamba.ops.depthwise_conv` computes.
"""

from torch import Tensor, nn

from avsmamba import ops


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise 3 x 3 convolution over height and width of `(..., h, w, E)` tokens; one kernel for all frames."""

    def __init__(self, channels: int, kernel_size: int = 3, activation: str | None = None, bias: bool = True):
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, h, w, E)` or `(B, T, h, w, E)` to the same shape."""
        return ops.depthwise_conv(x, self.weight, self.bias, self.activation)


class DepthwiseConv3d(nn.Conv3d):
    """Depthwise 3 x 3 x 3 convolution over time, height and width of `(B, T, h, w, E)` tokens."""

    def __init__(self, channels: int, kernel_size: int = 3, activation: str | None = None):
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, h, w, E)` to the same shape."""
        return ops.depthwise_conv(x, self.weight, self.bias, self.activation)


class CausalConv1d(nn.Conv1d):
    """Depthwise causal convolution over time: the output of second t depends on seconds t, t - 1, … only."""

    def __init__(self, channels: int, kernel_size: int = 4, activation: str | None = None):
        super().__init__(channels, channels, kernel_size, groups=channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, T, E)` to the same shape."""
        return ops.depthwise_conv(x, self.weight, self.bias, self.activation, causal=True)


DEPTHWISE: dict[str, type[DepthwiseConv2d] | type[DepthwiseConv3d]] = {"2d": DepthwiseConv2d, "3d": DepthwiseConv3d}


def depthwise_conv(kind: str, channels: int, activation: str | None = None) -> DepthwiseConv2d | DepthwiseConv3d:
    """Build the visual convolution '2d' or '3d', with 'silu' or no activation after it.

    Raises:
        ValueError: if `kind` is neither.
    """
    if kind not in DEPTHWISE:
        raise ValueError(f"conv: expected one of {sorted(DEPTHWISE)}, got {kind!r}")
    return DEPTHWISE[kind](channels, activation=activation)
