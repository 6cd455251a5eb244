"""The two visual blocks of the paper: VSS block (Eq. 5-7) and Temporal Mamba block (Fig. 3, Eq. 8-10).

Both are VMamba's block: Norm -> Linear to (x, z) -> depthwise convolution -> scan -> Norm -> times SiLU(z) -> Linear,
plus the input. They differ in what one sequence is: the tokens of all scales of one frame, or of all scales of the
whole clip. Weights are shared over the scales; the convolution runs on each scale's own map.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from avsmamba.models.layers.conv import DepthwiseConv2d, depthwise_conv
from avsmamba.models.layers.scales import Sizes, flatten_clip, flatten_frames, map_sizes, split_clip, split_frames
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.ops import ScanParameters, selective_scan_2d, selective_scan_3d


class SequenceLayout(NamedTuple):
    """What one sequence is: how maps become tokens `(..., L, C)` and how they come back, and the scan."""

    flatten: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor, int, Sizes], list[Tensor]]
    scan: Callable[[Tensor, ScanParameters, int, Sizes], Tensor]


FRAME = SequenceLayout(
    flatten_frames,
    lambda tokens, num_frames, sizes: split_frames(tokens, sizes),
    lambda tokens, parameters, num_frames, sizes: selective_scan_2d(tokens, parameters, sizes),
)
CLIP = SequenceLayout(flatten_clip, split_clip, selective_scan_3d)


class VisualMambaBlock(nn.Module):
    """Base of the two blocks; `layout` defines what one sequence is."""

    def __init__(self, channels: int, num_directions: int, conv: str, layout: SequenceLayout, options: SSMOptions):
        super().__init__()
        inner = options.inner(channels)
        self.layout = layout
        self.norm = nn.LayerNorm(channels, eps=options.norm_eps)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = depthwise_conv(conv, inner, options.activation)
        self.ssm = MultiDirectionalSSM(channels, num_directions, options)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.drop_path = DropPath(options.drop_path)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map a list of `(B, T, h_i, w_i, C)` maps, one a scale, to maps of the same shapes."""
        num_frames, sizes = maps[0].shape[1], map_sizes(maps)
        tokens = self.layout.flatten(maps)
        x, gate = self.in_proj(self.norm(tokens)).chunk(2, dim=-1)
        x = self.layout.flatten([self.conv(m) for m in self.layout.split(x, num_frames, sizes)])
        sequences = x.flatten(0, -3)
        y = self.layout.scan(sequences, self.ssm.scan_parameters(sequences), num_frames, sizes).view_as(x)
        y = self.out_proj(self.out_norm(y) * F.silu(gate))
        return self.layout.split(tokens + self.drop_path(y), num_frames, sizes)


class VSSBlock(VisualMambaBlock):
    """Cross-scan over all scales of one frame, four directions: HW, WH and their reverses (Eq. 5-7).

    Args:
        channels: model channels C.
        options: of all blocks.
    """

    def __init__(self, channels: int, options: SSMOptions | None = None):
        super().__init__(channels, 4, "2d", FRAME, options or SSMOptions())


class TemporalMambaBlock(VisualMambaBlock):
    """3D selective scan over all scales and frames of a clip (Fig. 3, Eq. 8-10).

    Args:
        channels: model channels C.
        num_orders: scan directions, 2 to 12 as in Table VII.
        conv: '2d' (a kernel of 3 x 3 in each frame, the default) or '3d' (3 x 3 x 3).
        options: of all blocks.
    """

    def __init__(self, channels: int, num_orders: int = 8, conv: str = "2d", options: SSMOptions | None = None):
        super().__init__(channels, num_orders, conv, CLIP, options or SSMOptions())


class MixFFN(nn.Module):
    """Feed-forward network with a depthwise convolution: x + fc2(GELU(conv3x3(fc1(norm(x))))) on each map.

    Source: SegFormer's Mix-FFN (Xie et al., 2021), initialised as there. The paper does not mention it; the authors'
    model has it after each VSS block.

    Args:
        channels: model channels C.
        mlp_ratio: hidden channels over C.
        options: of all blocks.
    """

    def __init__(self, channels: int, mlp_ratio: float = 4.0, options: SSMOptions | None = None):
        super().__init__()
        options = options or SSMOptions()
        hidden = int(mlp_ratio * channels)
        self.norm = nn.LayerNorm(channels, eps=options.norm_eps)
        self.fc1 = nn.Linear(channels, hidden)
        self.conv = DepthwiseConv2d(hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.drop_path = DropPath(options.drop_path)
        for linear in (self.fc1, self.fc2):
            trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map a list of `(B, T, h_i, w_i, C)` maps, one a scale, to maps of the same shapes."""
        return [m + self.drop_path(self.fc2(F.gelu(self.conv(self.fc1(self.norm(m)))))) for m in maps]
