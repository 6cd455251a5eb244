"""VMamba as a backbone, on our own scan, with the public checkpoints of its v0 and v05 families."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from avsmamba.checkpoint.pretrained import Layout, by_leading_part
from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, RATE, limits, one_of
from avsmamba.models.layers.conv import DepthwiseConv2d
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.models.layers.stage_fusion import Between, unchanged
from avsmamba.models.pretrained_part import PretrainedPart
from avsmamba.ops import selective_scan_2d
from avsmamba.registry import MODELS


class Arch(NamedTuple):
    """A public model: channels of the first stage, blocks of each stage, inner over model channels, family."""

    dim: int
    depths: tuple[int, int, int, int]
    expand: float
    family: str


ARCHS = {
    "v0_tiny": Arch(96, (2, 2, 9, 2), 2.0, "v0"),
    "v0_small": Arch(96, (2, 2, 27, 2), 2.0, "v0"),
    "v0_base": Arch(128, (2, 2, 27, 2), 2.0, "v0"),
    "v05_tiny_s1l8": Arch(96, (2, 2, 8, 2), 1.0, "v05"),
    "v05_small_s2l15": Arch(96, (2, 2, 15, 2), 2.0, "v05"),
    "v05_base_s2l15": Arch(128, (2, 2, 15, 2), 2.0, "v05"),
}


class VMambaBlock(nn.Module):
    """x + scan(x), and in family v05 then x + mlp(x) (Liu et al., 2024, https://arxiv.org/abs/2401.10166).

    The scan's branch is Norm -> Linear -> depthwise 3 x 3 convolution, SiLU -> 2D selective scan in four directions ->
    Norm -> (v0: times SiLU(z), z from the same Linear) -> Linear.

    Args:
        channels: C.
        family: 'v0' (16 states a channel, gate, no MLP) or 'v05' (1 state, no gate, MLP of ratio 4).
        expand: inner channels E over C.
        drop_path: probability of dropping a branch for a sample in training.
    """

    def __init__(self, channels: int, family: str, expand: float, drop_path: float = 0.0):
        super().__init__()
        self.gated = family == "v0"
        options = SSMOptions(d_state=16 if self.gated else 1, expand=expand)
        inner = options.inner(channels)
        self.norm = nn.LayerNorm(channels)
        self.in_proj = nn.Linear(channels, 2 * inner if self.gated else inner, bias=False)
        self.conv = DepthwiseConv2d(inner, activation="silu", bias=self.gated)
        self.ssm = MultiDirectionalSSM(channels, 4, options)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.drop_path = DropPath(drop_path)
        self.norm2 = None if self.gated else nn.LayerNorm(channels)
        self.mlp = None if self.gated else Mlp(channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, h, w, C)` to the same shape."""
        x = x + self.drop_path(self.scan(self.norm(x)))
        if self.mlp is None or self.norm2 is None:
            return x
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def scan(self, x: Tensor) -> Tensor:
        """Map `(N, h, w, C)` to the same shape: the branch after its norm."""
        x, gate = self.in_proj(x).chunk(2, dim=-1) if self.gated else (self.in_proj(x), None)
        x = self.conv(x)
        tokens = x.flatten(1, 2)
        y = self.out_norm(selective_scan_2d(tokens, self.ssm.scan_parameters(tokens), [x.shape[1:3]]).view_as(x))
        return self.out_proj(y if gate is None else y * F.silu(gate))


class PatchEmbed(nn.Module):
    """Frames `(N, 3, H, W)` to `(N, H / 4, W / 4, C)`: v0 by one 4 x 4 convolution, v05 by two strided 3 x 3 ones."""

    def __init__(self, channels: int, family: str):
        super().__init__()
        first = channels if family == "v0" else channels // 2
        self.conv = nn.Conv2d(3, first, 4, 4) if family == "v0" else nn.Conv2d(3, first, 3, 2, 1)
        self.norm = nn.LayerNorm(first)
        self.rest = None if family == "v0" else ConvDownsample(first, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        x = self.norm(convolve(self.conv, x.permute(0, 2, 3, 1)))
        return x if self.rest is None else self.rest(F.gelu(x))


class PatchMerging(nn.Module):
    """The v0 downsampling `(N, h, w, C)` to `(N, h / 2, w / 2, C')`: 2 x 2 neighbours as one token, Norm, Linear.

    Odd sizes get zeros at their end.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        neighbours = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(neighbours, dim=-1)))


class ConvDownsample(nn.Module):
    """The v05 downsampling `(N, h, w, C)` to `(N, h / 2, w / 2, C')`: strided 3 x 3 convolution, Norm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample."""
        return self.norm(convolve(self.conv, x))


class Stage(nn.Module):
    """Blocks, then the downsampling to the next stage; the last stage has none."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), downsample


@MODELS.register_module()
class VMamba(PretrainedPart):
    """The four stages of a VMamba; each stage's map goes through a norm of its own.

    `checkpoint` is read by `init_weights`, which mmengine calls when a training starts; testing and resuming do
    not need it. It may hold the public names of a classifier (https://github.com/MzeroMiko/VMamba), of a
    detector or segmenter on it (`backbone.`), or this class's own.

    Args:
        arch: a public model: 'v0_tiny', 'v0_small', 'v0_base', 'v05_tiny_s1l8', 'v05_small_s2l15', 'v05_base_s2l15'.
        checkpoint: local file with pretrained weights; None: random weights.
        frozen: no gradients, and always in eval mode, for all that a classifier's file holds; the norms of the four
            maps, which it does not hold, are trained.
        drop_path_rate: stochastic depth of the last block; those before have less, in equal steps from 0. AVS-Mamba's
            authors train VMamba-B with 0.6.
        grad_checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        dims: channels of the four stages, instead of the public model's.
        depths: blocks of the four stages, instead of the public model's.

    Attributes:
        out_channels: channels of the four maps.
        strides: `[4, 8, 16, 32]`.

    Raises:
        ValueError: if `arch` is unknown, or `dims` or `depths` are not four.
    """

    has_stages = True

    @limits(arch=one_of(ARCHS), dims=AT_LEAST_1, depths=AT_LEAST_0, drop_path_rate=RATE)
    def __init__(
        self,
        arch: str = "v05_base_s2l15",
        checkpoint: str | None = None,
        frozen: bool = False,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
        dims: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
    ):
        super().__init__(f"VMamba {arch}", checkpoint, frozen, ("out_norms",))
        dim, known_depths, expand, family = ARCHS[arch]
        dims = [dim * 2**i for i in range(4)] if dims is None else list(dims)
        depths = list(known_depths if depths is None else depths)
        for name, value in (("dims", dims), ("depths", depths)):
            if len(value) != 4:
                raise ValueError(f"{name}: expected one for each of four stages, got {value}")
        self.family, self.grad_checkpointing = family, grad_checkpointing
        self.out_channels, self.strides = dims, [4, 8, 16, 32]
        self.stem = PatchEmbed(dims[0], family)
        rates = iter(drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        downsample = PatchMerging if family == "v0" else ConvDownsample
        self.stages = nn.ModuleList(
            Stage(
                [VMambaBlock(channels, family, expand, next(rates)) for _ in range(depth)],
                downsample(channels, dims[i + 1]) if i < 3 else None,
            )
            for i, (channels, depth) in enumerate(zip(dims, depths, strict=True))
        )
        self.out_norms = nn.ModuleList(nn.LayerNorm(channels) for channels in dims)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
        self.freeze()

    def forward(self, x: Tensor, between: Between = unchanged) -> list[Tensor]:
        """Extract.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 32.
            between: changes the map of each stage, before the norm of the maps.

        Returns:
            four `channels_last` maps `(N, C_i, H / s_i, W / s_i)`, finest first.
        """
        maps = []
        with self.gradients(between is not unchanged):
            x = self.stem(x)
            for i, stage in enumerate(self.stages):
                for block in stage.blocks:
                    x = maybe_checkpoint(block, x, recompute=self.grad_checkpointing)
                x = between(i, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
                maps.append(x)
                x = x if stage.downsample is None else stage.downsample(x)
        return [norm(m).permute(0, 3, 1, 2) for norm, m in zip(self.out_norms, maps, strict=True)]

    def layout(self) -> Layout:
        """Return how files are read."""
        return Layout(self, translate_vmamba, PREFIXES, self.new_parts)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve `(N, h, w, C)`; torch gets a `channels_last` view, so nothing is copied."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


# A released AVS-Mamba's, detectors' and segmenters'.
PREFIXES = ("vision_backbone.", "backbone.")
# From the public names, first match first; `ln_1` and `self_attention` are the first release's.
_RENAMED = (
    (r"^patch_embed\.(?:0|proj)\.", "stem.conv."),
    (r"^patch_embed\.(?:2|norm)\.", "stem.norm."),
    (r"^patch_embed\.5\.", "stem.rest.conv."),
    (r"^patch_embed\.7\.", "stem.rest.norm."),
    (r"^outnorm(\d)\.", r"out_norms.\1."),
    (r"^layers\.(\d+)\.downsample\.1\.", r"stages.\1.downsample.conv."),
    (r"^layers\.(\d+)\.downsample\.3\.", r"stages.\1.downsample.norm."),
    (r"^layers\.(\d+)\.(blocks|downsample)\.", r"stages.\1.\2."),
    (r"\.ln_1\.", ".norm."),
    (r"\.(?:op|self_attention)\.(in_proj|out_norm|out_proj)\.", r".\1."),
    (r"\.(?:op|self_attention)\.conv2d\.", ".conv."),
    (r"\.(?:op|self_attention)\.x_proj_weight$", ".ssm.x_proj_weight"),
    (r"\.(?:op|self_attention)\.dt_projs_(weight|bias)$", r".ssm.dt_\1"),
    (r"\.(?:op|self_attention)\.A_logs$", ".ssm.A_log"),
    (r"\.(?:op|self_attention)\.Ds$", ".ssm.D"),
)
_POINTWISE = (".in_proj.weight", ".out_proj.weight", ".fc1.weight", ".fc2.weight")


def translate_vmamba(state: dict[str, Tensor], file: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Translate the public VMamba's names and shapes to ours; list its classifier's tensors.

    The public model stacks the directions of A and D into the channels, `(K E, N)` and `(K E,)`, in the order of
    `cross_scan_2d`; weights of its 1 x 1 convolutions may be `(out, in, 1, 1)`. Unknown names are kept.
    """
    state, unused = by_leading_part(state, ("classifier", "head", "norm"))
    ours = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in _RENAMED:
            new = re.sub(pattern, replacement, new)
        if (new.endswith(".ssm.A_log") and value.ndim == 2) or (new.endswith(".ssm.D") and value.ndim == 1):
            value = value.unflatten(0, (4, -1))
        elif new.endswith(_POINTWISE) and value.ndim == 4:
            value = value.flatten(1)
        ours[new] = value
    return ours, unused
