"""Vision Mamba (Vim) as a backbone, on our own scan, with its public checkpoints; one map becomes four."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from avsmamba.models.backbones.feature_pyramid import SimpleFeaturePyramid
from avsmamba.models.layers.conv import CausalConv1d
from avsmamba.models.layers.recompute import run_block
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.models.pretrained import Layout, by_leading_part, load_pretrained
from avsmamba.ops import one_way
from avsmamba.registry import MODELS


class Arch(NamedTuple):
    """A public model: channels and blocks."""

    dim: int
    depth: int


ARCHS = {"tiny": Arch(192, 24), "small": Arch(384, 24)}


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
        onward = self.ssms[0](self.convs[0](x), one_way(x.shape[1], device=x.device))
        # The backward convolution looks at the tokens that follow; its output stays in natural order.
        x = self.convs[1](x.flip(1)).flip(1)
        back = self.ssms[1](x, one_way(x.shape[1], reverse=True, device=x.device))
        return tokens + self.drop_path(self.out_proj((onward + back) * (0.5 * F.silu(gate))))


@MODELS.register_module()
class Vim(nn.Module):
    """Vim with the class token in the middle: a map at stride 16, of which a simple feature pyramid makes four.

    `checkpoint` is read by `init_weights`, which mmengine calls when a training starts; a model that is tested or
    resumed does not need it. It may hold the public names of a classifier (https://github.com/hustvl/Vim, `midclstok`),
    or this class's own.

    Args:
        arch: 'tiny' or 'small'.
        checkpoint: local file with pretrained weights; None: random weights.
        frozen: no gradients, and always in eval mode, for all that a classifier's file holds; the pyramid, which it
            does not hold, is trained.
        drop_path_rate: stochastic depth of the last block; those before have less, in equal steps from 0.
        grad_checkpointing: compute each block's activations again in the backward pass instead of keeping them.
        pyramid_channels: channels of the four maps.
        img_size: pixels of the square that the position embedding is made for (224 in the public files); it is
            interpolated for other frames.
        dim: channels, in the place of the public model's.
        depth: blocks, in the place of the public model's.

    Attributes:
        out_channels: channels of the four maps.
        strides: `[4, 8, 16, 32]`.

    Raises:
        ValueError: if `arch` is unknown, or `img_size` is no multiple of 16.
    """

    def __init__(
        self,
        arch: str = "small",
        checkpoint: str | None = None,
        frozen: bool = False,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
        pyramid_channels: int = 256,
        img_size: int = 224,
        dim: int | None = None,
        depth: int | None = None,
    ):
        super().__init__()
        if arch not in ARCHS:
            raise ValueError(f"arch: expected one of {sorted(ARCHS)}, got {arch!r}")
        if img_size < 16 or img_size % 16:
            raise ValueError(f"img_size: expected a multiple of 16 pixels, got {img_size}")
        dim, depth = dim or ARCHS[arch].dim, ARCHS[arch].depth if depth is None else depth
        self.arch, self.checkpoint = arch, checkpoint
        self.frozen, self.grad_checkpointing = frozen, grad_checkpointing
        self.out_channels, self.strides = [pyramid_channels] * 4, [4, 8, 16, 32]
        self.patch_embed = nn.Conv2d(3, dim, 16, 16)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, (img_size // 16) ** 2 + 1, dim))
        self.blocks = nn.ModuleList(VimBlock(dim, drop_path_rate * i / max(1, depth - 1)) for i in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.pyramid = SimpleFeaturePyramid(dim, pyramid_channels)
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        for block in self.blocks:
            # As in Mamba: the sum of all branches has the spread of one.
            nn.init.kaiming_uniform_(block.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                block.out_proj.weight /= math.sqrt(depth)
        if frozen:
            for module in self._pretrained_parts():
                module.requires_grad_(False)
            self.cls_token.requires_grad_(False)
            self.pos_embed.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Load `checkpoint`, if one is named; a pyramid that it does not hold stays as it is.

        Raises:
            UserError: if it is missing, damaged, or does not hold all of the model's tensors.
        """
        if self.checkpoint is not None:
            load_pretrained(self.layout(), self.checkpoint, f"Vim {self.arch}")

    def train(self, mode: bool = True) -> "Vim":
        """As in `nn.Module`; parts that are frozen stay in eval mode."""
        super().train(mode)
        if self.frozen:
            for module in self._pretrained_parts():
                module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 32.

        Returns:
            four maps `(N, C, H / s_i, W / s_i)`, finest first.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            feature = self.features(x)
        return self.pyramid(feature)

    def features(self, x: Tensor) -> Tensor:
        """The map `(N, C, H / 16, W / 16)` after the last norm, without the class token."""
        patches = self.patch_embed(x)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        middle = tokens.shape[1] // 2
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([tokens[:, :middle], cls_token.to(tokens.dtype), tokens[:, middle:]], dim=1)
        # The embedding's precision is the residual's: under autocast the sums over the blocks stay float32.
        tokens = tokens + resize_pos_embed(self.pos_embed, height, width)
        for block in self.blocks:
            tokens = run_block(block, tokens, recompute=self.grad_checkpointing)
        tokens = self.norm(tokens)
        tokens = torch.cat([tokens[:, :middle], tokens[:, middle + 1 :]], dim=1)
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def layout(self) -> Layout:
        """How the file is read."""
        return Layout(self, translate_vim, ("backbone.",), ("pyramid",))

    def _pretrained_parts(self) -> list[nn.Module]:
        return [self.patch_embed, self.blocks, self.norm]


def resize_pos_embed(pos_embed: Tensor, height: int, width: int) -> Tensor:
    """Interpolate a position embedding, bicubically, to another grid.

    Args:
        pos_embed: `(1, M + 1, C)` of a square grid of M patches; the class token's row stands at M // 2.
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


_RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^norm_f\.", "norm."),
    (r"^layers\.(\d+)\.norm\.", r"blocks.\1.norm."),
    (r"^layers\.(\d+)\.mixer\.(in_proj|out_proj)\.", r"blocks.\1.\2."),
)
# What each direction has of its own; `_b` marks the backward one.
_DIRECTED = re.compile(r"^layers\.(\d+)\.mixer\.(conv1d|x_proj|dt_proj|A|D)(_b)?(?:_log)?(?:\.(weight|bias))?$")


def translate_vim(state: dict[str, Tensor], file: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """From the public Vim's names and shapes to ours, and the names of its classifier's tensors.

    Our state space models count directions along their first axis; here each has one. Names it does not know are kept.
    """
    state, unused = by_leading_part(state, ("head",))
    ours = {}
    for name, value in state.items():
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
