"""Encoder-only model after EASE (Viertola et al., 2026): audio queries join the last blocks of the backbone.

The slot `stage_fusion` holds all of it: the audio becomes K enhanced features a second, from which Q queries gather
their start; queries and pixels pass the last blocks together, and before each block the pixels attend to the audio. A
small mask module reads both. There is neither a pixel decoder nor a transformer decoder: projection and decoder only
hand on what the fusion returns, and the head is `QuerySetHead`. Its authors' code was not read; what the paper
leaves open is named in docs/methods/encoder_only.md.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.pvt_v2 import Block
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, POSITIVE, RATE, counts, limits, one_of
from avsmamba.models.backbones.feature_pyramid import LayerNorm2d
from avsmamba.models.layers.joint_block import join
from avsmamba.models.layers.stage_fusion import StageFusion
from avsmamba.models.sets.masked_attention import Attention, QueryMasks, allowed_pixels, mlp, query_masks
from avsmamba.registry import MODELS

AUDIO_NORM = one_of(("LN", "BN"))


class Centers(nn.Module):
    """Soft clustering: tokens are assigned to K learned centres, in training by Gumbel-softmax.

    A centre becomes itself plus the values of its tokens, weighted with their assignments and divided by the sum of
    these plus 1.

    Args:
        channels: C.
        num_centers: K.
        temperature: of the softmax.
    """

    def __init__(self, channels: int, num_centers: int, temperature: float):
        super().__init__()
        self.temperature = temperature
        self.centers = nn.Parameter(torch.randn(num_centers, channels))
        self.norm = nn.LayerNorm(channels)
        self.key, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(N, L, C)` tokens to `(N, K, C)` centres; without noise in eval mode."""
        tokens = self.norm(tokens)
        logits = self.key(tokens) @ self.centers.T * tokens.shape[-1] ** -0.5
        if self.training:
            weights = F.gumbel_softmax(logits, self.temperature)
        else:
            weights = (logits / self.temperature).softmax(-1)
        weights = weights.transpose(1, 2)
        return self.centers + weights @ self.value(tokens) / (weights.sum(-1, keepdim=True) + 1)


class AudioEnhancement(nn.Module):
    """Features of each second to K enhanced ones of the width of the pixels: the mean feature plus each centre."""

    def __init__(self, audio_channels: int, channels: int, num_centers: int, temperature: float, norm: str):
        super().__init__()
        self.norm = (nn.BatchNorm1d if norm == "BN" else nn.LayerNorm)(audio_channels)
        self.centers = Centers(audio_channels, num_centers, temperature)
        self.output = nn.Linear(audio_channels, channels)

    def forward(self, audio: Tensor) -> Tensor:
        """Map `(N, L, C_a)`, L features of each second, to `(N, K, D)`."""
        audio = self.norm(audio.flatten(0, 1)).view_as(audio)
        return self.output(audio.mean(1, keepdim=True) + self.centers(audio))


class AudioQueries(nn.Module):
    """Q learned vectors attend to the enhanced audio; learned positions are added."""

    def __init__(self, channels: int, num_queries: int, num_heads: int):
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, channels))
        self.positions = nn.Parameter(torch.randn(num_queries, channels) * 0.02)
        self.attention = Attention(channels, num_heads)
        self.output = nn.Linear(channels, channels)

    def forward(self, sounds: Tensor) -> Tensor:
        """Map `(N, K, D)` audio to `(N, Q, D)` queries."""
        content = self.content.expand(len(sounds), -1, -1)
        return self.output(content + self.attention(content, sounds, sounds)) + self.positions


class AudioVisualFusion(nn.Module):
    """The sounds that the frame supports change its pixels; one module for all blocks.

    Stage 1: each sound attends to the centres of the pixels and gets a score from 0 to 1, with which it is scaled.
    Stage 2: pixels attend to the scaled sounds. The last layer starts at zero, so that a pretrained block first sees
    its own tokens.
    """

    def __init__(self, channels: int, num_centers: int, num_heads: int, temperature: float):
        super().__init__()
        self.centers = Centers(channels, num_centers, temperature)
        self.support = Attention(channels, num_heads)
        self.score = nn.Linear(channels, 1)
        self.norm = nn.LayerNorm(channels)
        self.update = Attention(channels, num_heads)
        nn.init.zeros_(self.update.output.weight)

    def forward(self, pixels: Tensor, sounds: Tensor) -> Tensor:
        """Update `(N, L, D)` pixels from `(N, K, D)` sounds."""
        seen = self.centers(pixels)
        heard = sounds * self.score(self.support(sounds, seen, seen)).sigmoid()
        return pixels + self.update(self.norm(pixels), heard, heard)


class MaskModule(nn.Module):
    """Mask logits of queries at a quarter of the frame's size from pixels at a sixteenth.

    Kernels: a linear network of three layers. Features: twice a transposed convolution of stride 2, GELU, a depthwise
    3 x 3 convolution and a layer normalisation, as in EoMT (Kerssies et al., CVPR 2025).

    Args:
        channels: D.
        skip_channels: channels of the maps at strides 8 and 4 that are added, each through a 1 x 1 convolution, after
            the first and the second step; none: nothing is added.
    """

    def __init__(self, channels: int, skip_channels: Sequence[int] = ()):
        super().__init__()
        self.kernels = mlp(channels, channels, channels, channels)
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(channels, channels, 2, 2),
                nn.GELU(),
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                LayerNorm2d(channels),
            )
            for _ in range(2)
        )
        self.skips = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in skip_channels)

    def forward(self, queries: Tensor, pixels: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Return `(N, Q, 4 h, 4 w)` of queries `(N, Q, D)`, pixels `(N, D, h, w)` and the maps of the skips."""
        x = pixels
        for i, step in enumerate(self.steps):
            x = step(x)
            if self.skips:
                x = x + self.skips[i](skips[i])
        return query_masks(self.kernels(queries), x.permute(0, 2, 3, 1))


@MODELS.register_module()
class EncoderOnlyFusion(StageFusion):
    """Queries from the audio and the pixels at stride 16 pass the last blocks together; masks after each block.

    The blocks are the backbone's own where it leaves them (`JointPVT`, `JointViT`), as in EASE. Behind a convolutional
    backbone, which has none, there are `num_blocks` new ones of PVT-v2's kind. Their pixels are the maps at strides 16
    and 32 (the second enlarged), each through a 1 x 1 convolution and a group normalisation, and added; the mask module
    then also reads the maps at strides 4 and 8. This is not from the paper.

    Masked attention, in training alone: in block b = 1, 2, ... (from 0) a query attends, with probability
    (1 - x) ** 0.9, only to the pixels of its mask after the block before. Of S blocks, x goes from 0 to 1 between
    b / (S + 1) and (b + 1) / (S + 1) of `masked_steps`: EoMT's annealing with equal parts. In eval mode attention is
    not masked, and only the masks after the last block are computed.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        audio_channels: C_a.
        embed_dims: D; the channels of the backbone's last map where it leaves its blocks.
        num_queries: Q.
        num_blocks: new blocks; 0: the backbone's.
        num_heads: attention heads; they divide D.
        mlp_ratio: hidden channels of the new blocks' feed-forward networks, in D.
        drop_path: stochastic depth of the new blocks.
        audio_centers: K, learned centres of the audio.
        visual_centers: learned centres of the pixels.
        temperature: of the soft assignments to centres.
        audio_norm: of the audio features: 'LN', or 'BN' over the batch, as in `Projection`.
        masked_steps: training steps over which masked attention is annealed; 0: attention is never masked. Set it to
            the number of iterations of the training.

    Attributes:
        out_channels: D.

    Raises:
        ValueError: if D does not fit the heads or the backbone's blocks, or the backbone does not fit `num_blocks`.
    """

    @limits(
        **counts("embed_dims", "num_queries", "num_heads", "audio_centers", "visual_centers"),
        num_blocks=AT_LEAST_0,
        mlp_ratio=POSITIVE,
        drop_path=RATE,
        temperature=POSITIVE,
        audio_norm=AUDIO_NORM,
        masked_steps=AT_LEAST_0,
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        audio_channels: int,
        embed_dims: int = 320,
        num_queries: int = 100,
        num_blocks: int = 0,
        num_heads: int = 5,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        audio_centers: int = 71,
        visual_centers: int = 5,
        temperature: float = 1.0,
        audio_norm: str = "LN",
        masked_steps: int = 0,
    ):
        super().__init__()
        own = num_blocks > 0
        if own != (len(in_channels) == 4):
            raise ValueError(
                f"num_blocks: expected 0 for JointPVT and JointViT, at least 1 for a backbone with four maps, got "
                f"{num_blocks} and {len(in_channels)} maps"
            )
        if not own and in_channels[-1] != embed_dims:
            raise ValueError(f"embed_dims: expected the {in_channels[-1]} channels of the blocks, got {embed_dims}")
        self.out_channels, self.masked_steps = embed_dims, masked_steps
        self.enhancement = AudioEnhancement(audio_channels, embed_dims, audio_centers, temperature, audio_norm)
        self.queries = AudioQueries(embed_dims, num_queries, num_heads)
        self.fusion = AudioVisualFusion(embed_dims, visual_centers, num_heads, temperature)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embed_dims, 1), nn.GroupNorm(max(1, embed_dims // 8), embed_dims))
            for c in in_channels[2:]
            if own
        )
        self.blocks = nn.ModuleList(
            Block(embed_dims, num_heads, mlp_ratio, qkv_bias=True, drop_path=drop_path) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(embed_dims) if own else None
        self.masks = MaskModule(embed_dims, in_channels[1::-1] if own else ())
        self.register_buffer("step", torch.zeros(()))

    def forward(self, backbone: nn.Module, frames: Tensor, audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the backbone and the joint blocks.

        Args:
            backbone: `JointPVT` or `JointViT`, or with `num_blocks` one with four maps.
            frames: `(N, 3, H, W)` normalised, N = B * T.
            audio: `(B, T, C_a)`, or `(B, T, L, C_a)` of an audio encoder with `tokens`.

        Returns:
            mask logits `(N, Q, H / 4, W / 4)` and queries `(B, T, S, Q, D)` after each of the S supervised blocks: all
            of them in training, else the last.
        """
        if self.norm is None:
            maps, others = backbone.start(frames)
            blocks, norm, run = backbone.joint_blocks, backbone.joint_norm, backbone.join
        else:
            maps = backbone(frames)
            others = maps[0].new_zeros(len(frames), 0, self.out_channels)
            blocks, norm, run = self.blocks, self.norm, join
        x = self.input(maps)
        size = (x.shape[2], x.shape[3])
        pixels = x.flatten(2).transpose(1, 2)
        sounds = self.enhancement(audio.flatten(0, 1) if audio.ndim == 4 else audio.flatten(0, 1).unsqueeze(1))
        first = others.shape[1]
        others = torch.cat([others, self.queries(sounds)], 1)
        outputs: list[QueryMasks] = []
        for i, block in enumerate(blocks):
            allowed = None
            if i and self.training and self.masked_steps:
                allowed = self.allowed(outputs[-1].masks, size, i, len(blocks))
                allowed = F.pad(allowed, (0, 0, first, 0), value=True)
            others, pixels = run(block, others, self.fusion(pixels, sounds), size, allowed)
            if self.training or i == len(blocks) - 1:
                queries = norm(others[:, first:])
                found = norm(pixels).transpose(1, 2).unflatten(2, size)
                outputs.append(QueryMasks(queries, self.masks(queries, found, maps[1::-1])))
        if self.training and self.masked_steps:
            self.step += 1
        return [o.masks for o in outputs], torch.stack([o.queries for o in outputs], 1).unflatten(0, audio.shape[:2])

    def input(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the pixels `(N, D, h, w)` at stride 16 before the joint blocks."""
        if not self.laterals:
            return maps[-1]
        x, coarse = (lateral(m) for lateral, m in zip(self.laterals, maps[2:], strict=True))
        return x + F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)

    def allowed(self, masks: Tensor, size: tuple[int, int], block: int, num_blocks: int) -> Tensor:
        """Return the pixels `(N, Q, h * w)` that a query may attend to in a block (from 0, not the first)."""
        progress = self.step / self.masked_steps * (num_blocks + 1) - block
        probability = (1 - progress.clamp(0, 1)) ** 0.9
        free = torch.rand(*masks.shape[:2], 1, device=masks.device) >= probability
        return allowed_pixels(masks, size) | free


@MODELS.register_module()
class EncoderOnlyProjection(nn.Module):
    """Masks and queries of `EncoderOnlyFusion` as they are.

    Args:
        in_channels: not used.
        audio_channels: not used.
        embed_dims: not used.
    """

    @limits()
    def __init__(self, in_channels: Sequence[int], audio_channels: int, embed_dims: int = 320):
        super().__init__()

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return `(B, T, ...)` of each of the `(B * T, ...)` maps, and the audio."""
        return [m.unflatten(0, audio.shape[:2]) for m in maps], audio


@MODELS.register_module()
class EncoderOnlyDecoder(nn.Module):
    """Pairs of the queries and masks of each supervised block; nothing is decoded.

    Args:
        embed_dims: not used.
    """

    @limits()
    def __init__(self, embed_dims: int = 320):
        super().__init__()

    def forward(self, maps: list[Tensor], audio: Tensor) -> list[QueryMasks]:
        """Pair masks `(B, T, Q, h, w)` with queries `(B, T, S, Q, D)`."""
        return [QueryMasks(q, m) for q, m in zip(audio.unbind(2), maps, strict=True)]
