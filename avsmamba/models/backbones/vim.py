"""Vision Mamba (Vim) as a backbone, on our own scan, with its public checkpoints; a pyramid is an option."""

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from avsmamba.checkpoint.pretrained import Layout, by_leading_part
from avsmamba.limits import RATE, counts, limits, one_of
from avsmamba.models.backbones.feature_pyramid import SimpleFeaturePyramid
from avsmamba.models.layers.conv import CausalConv1d
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.models.pretrained_part import PretrainedPart
from avsmamba.ops import selective_scan_1d
from avsmamba.registry import MODELS


class Arch(NamedTuple):
    """A public model: channels and blocks."""

    dim: int
    depth: int


ARCHS = {"tiny": Arch(192, 24), "small": Arch(384, 24), "base": Arch(768, 24)}
NUM_MAPS = 4


class VimBlock(nn.Module):
    """x + mixer(x) with the two-way Mamba of Vim (Zhu et al., 2024, https://arxiv.org/abs/2401.09417, Algorithm 1).

    The branch is RMSNorm -> Linear to (x, z) -> for each of two directions its own causal convolution of 4 taps, SiLU
    and selective scan -> mean of the two -> times SiLU(z) -> Linear.

    Args:
        channels: C; the scans have 2 C channels with 16 states each.
        drop_path: probability of dropping the branch for a sample in training.
    """

    def __init__(self, channels: int, drop_path: float = 0.0):
        super().__init__()
        options = SSMOptions()
        inner = options.inner(channels)
        self.norm = nn.RMSNorm(channels, eps=1e-5)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.convs = nn.ModuleList(CausalConv1d(inner, activation="silu") for _ in range(2))
        self.ssms = nn.ModuleList(MultiDirectionalSSM(channels, 1, options) for _ in range(2))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(N, L, C)` to the same shape."""
        x, gate = self.in_proj(self.norm(tokens)).chunk(2, dim=-1)
        # The backward convolution reads the tokens that follow; its output is in natural order again.
        onward, back = self.convs[0](x), self.convs[1](x.flip(1)).flip(1)
        onward = selective_scan_1d(onward, self.ssms[0].scan_parameters(onward))
        back = selective_scan_1d(back, self.ssms[1].scan_parameters(back), reverse=True)
        return tokens + self.drop_path(self.out_proj((onward + back) * (0.5 * F.silu(gate))))


@MODELS.register_module()
class Vim(PretrainedPart):
    """Vim with the class token in the middle: four maps at stride 16, or a simple feature pyramid over the last one.

    AVS-Mamba's authors run Vim-B without a pyramid (Fig. 10 of their paper). After which blocks they take the four maps
    is not known; here it is after `map_blocks`, each map through the last norm, which a public file holds.

    `checkpoint` is read by `init_weights`, which mmengine calls when a training starts; testing and resuming do
    not need it. It may hold the public names of a classifier (https://github.com/hustvl/Vim, `midclstok`),
    or this class's own; a position embedding of another grid is interpolated to `img_size`.

    Args:
        arch: 'tiny', 'small' or 'base'.
        checkpoint: local file with pretrained weights; None: random weights.
        frozen: no gradients, and always in eval mode, for all that a classifier's file holds; the pyramid, which it
            does not hold, is trained.
        drop_path_rate: stochastic depth of the last block; those before have less, in equal steps from 0. The public
            models train with 0.1.
        grad_checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        pyramid: compute maps at strides 4, 8, 16 and 32 from the last one, instead of four maps at stride 16.
        pyramid_channels: channels of the pyramid's maps.
        map_blocks: without the pyramid, after which blocks, counted from 1, the four maps are taken; None: in four
            equal steps, the last map after the last block.
        img_size: pixels of the square for which the position embedding is stored (224 in the public files); it is
            interpolated for other frames.
        dim: channels, instead of the public model's.
        depth: blocks, instead of the public model's.

    Attributes:
        out_channels: channels of the four maps.
        strides: `[16, 16, 16, 16]`, with the pyramid `[4, 8, 16, 32]`.

    Raises:
        ValueError: if `arch` is unknown, `img_size` is no multiple of 16, `depth` is below 1, or `map_blocks` are not
            four of the blocks.
    """

    @limits(**counts("pyramid_channels", "dim", "depth"), arch=one_of(ARCHS), drop_path_rate=RATE)
    def __init__(
        self,
        arch: str = "base",
        checkpoint: str | None = None,
        frozen: bool = False,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
        pyramid: bool = False,
        pyramid_channels: int = 256,
        map_blocks: Sequence[int] | None = None,
        img_size: int = 512,
        dim: int | None = None,
        depth: int | None = None,
    ):
        super().__init__(f"Vim {arch}", checkpoint, frozen, ("pyramid",) if pyramid else ())
        if img_size < 16 or img_size % 16:
            raise ValueError(f"img_size: expected a multiple of 16 pixels, got {img_size}")
        dim, depth = dim or ARCHS[arch].dim, ARCHS[arch].depth if depth is None else depth
        self.grad_checkpointing = grad_checkpointing
        if map_blocks is None:
            map_blocks = [-(-depth * i // NUM_MAPS) for i in range(1, NUM_MAPS + 1)]
        elif len(map_blocks) != NUM_MAPS or not all(1 <= count <= depth for count in map_blocks):
            raise ValueError(f"map_blocks: expected four of the blocks 1 to {depth}, got {list(map_blocks)}")
        self.map_blocks = [depth] if pyramid else list(map_blocks)
        self.out_channels = [pyramid_channels if pyramid else dim] * NUM_MAPS
        self.strides = [4, 8, 16, 32] if pyramid else [16] * NUM_MAPS
        self.patch_embed = nn.Conv2d(3, dim, 16, 16)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, (img_size // 16) ** 2 + 1, dim))
        self.blocks = nn.ModuleList(VimBlock(dim, drop_path_rate * i / max(1, depth - 1)) for i in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.pyramid = SimpleFeaturePyramid(dim, pyramid_channels) if pyramid else None
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        for block in self.blocks:
            # As in Mamba: the sum of all branches has the variance of one.
            nn.init.kaiming_uniform_(block.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                block.out_proj.weight /= math.sqrt(depth)
        self.freeze()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 32.

        Returns:
            four maps `(N, C, H / s_i, W / s_i)`, finest first.
        """
        with self.gradients():
            maps = self.features(x)
        return maps if self.pyramid is None else self.pyramid(maps[-1])

    def features(self, x: Tensor) -> list[Tensor]:
        """Compute the maps `(N, C, H / 16, W / 16)` after `map_blocks`, through the last norm, without class token."""
        patches = self.patch_embed(x)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        middle = tokens.shape[1] // 2
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([tokens[:, :middle], cls_token.to(tokens.dtype), tokens[:, middle:]], dim=1)
        # The embedding's precision is the residual's: under autocast the sums over the blocks stay float32.
        tokens = tokens + resize_pos_embed(self.pos_embed, height, width)
        maps: dict[int, Tensor] = {}
        for count, block in enumerate(self.blocks, start=1):
            tokens = maybe_checkpoint(block, tokens, recompute=self.grad_checkpointing)
            if count in self.map_blocks:
                normal = self.norm(tokens)
                patches = torch.cat([normal[:, :middle], normal[:, middle + 1 :]], dim=1)
                maps[count] = patches.transpose(1, 2).unflatten(2, (height, width))
        return [maps[count] for count in self.map_blocks]

    def layout(self) -> Layout:
        """Return how files are read."""
        translate = partial(translate_vim, side=math.isqrt(self.pos_embed.shape[1] - 1))
        return Layout(self, translate, PREFIXES, self.new_parts)


def resize_pos_embed(pos_embed: Tensor, height: int, width: int) -> Tensor:
    """Interpolate a position embedding, bicubically, to another grid.

    Args:
        pos_embed: `(1, M + 1, C)` of a square grid of M patches; the class token's row is at M // 2.
        height: rows of the grid.
        width: its columns.

    Returns:
        `(1, height width + 1, C)`, the class token's row at `height width // 2`.
    """
    count = pos_embed.shape[1] - 1
    side = math.isqrt(count)
    if (height, width) == (side, side):
        return pos_embed
    middle = count // 2
    rows = torch.cat([pos_embed[:, :middle], pos_embed[:, middle + 1 :]], dim=1)
    grid = rows.transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    new_middle = height * width // 2
    return torch.cat([grid[:, :new_middle], pos_embed[:, middle : middle + 1], grid[:, new_middle:]], dim=1)


# A released AVS-Mamba's, detectors' and segmenters'.
PREFIXES = ("vision_backbone.", "backbone.")
_RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^norm_f\.", "norm."),
    (r"^layers\.(\d+)\.norm\.", r"blocks.\1.norm."),
    (r"^layers\.(\d+)\.mixer\.(in_proj|out_proj)\.", r"blocks.\1.\2."),
)
# Parameters of each direction; `_b` marks the backward one.
_DIRECTED = re.compile(r"^layers\.(\d+)\.mixer\.(conv1d|x_proj|dt_proj|A|D)(_b)?(?:_log)?(?:\.(weight|bias))?$")


def translate_vim(state: dict[str, Tensor], file: str | Path, side: int) -> tuple[dict[str, Tensor], list[str]]:
    """Translate the public Vim's names and shapes to ours; list its classifier's tensors.

    Our state space models count directions along their first axis; here each has one. Unknown names are kept.

    Args:
        state: tensors by name.
        file: not used.
        side: rows and columns of the grid that the position embedding is interpolated to.
    """
    state, unused = by_leading_part(state, ("head",))
    ours = {}
    for name, value in state.items():
        if name == "pos_embed" and value.ndim == 3 and math.isqrt(value.shape[1] - 1) ** 2 == value.shape[1] - 1:
            value = resize_pos_embed(value, side, side)
        if found := _DIRECTED.match(name):
            block, part, back, kind = found.groups()
            way = 1 if back else 0
            if part == "conv1d":
                ours[f"blocks.{block}.convs.{way}.{kind}"] = value
            else:
                own = {"A": "A_log", "D": "D", "x_proj": "x_proj_weight", "dt_proj": f"dt_{kind}"}[part]
                ours[f"blocks.{block}.ssms.{way}.{own}"] = value.unsqueeze(0)
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        ours[name] = value
    return ours, unused
