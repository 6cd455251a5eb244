"""CATR (Li et al., ACM MM 2023: combinatorial-dependence audio-queried transformer) as parts of AVSSegmentor.

Projection: dilated convolutions. Encoder: a spatial and a temporal transformer over the pixels of map 2 and the sounds
of all seconds. Decoder: DETR's, over the spatial encoder's output. Pyramid: the gate over the temporal encoder's blocks
and mask features. The head is `QuerySetHead`. Accidents of the public code (aspirinone/CATR.github.io) are options.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import RATE, Limit, counts, limits, one_of
from avsmamba.models.baselines.tpavi import DilatedConvs
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.models.projection import project_maps
from avsmamba.models.sets.masked_attention import Attention, MaskedAttentionLayer
from avsmamba.registry import MODELS

# The maps that are added to the mask features after the second and the third convolution, at the first one's size; 1 is
# the finest. Map 2 is also the transformers' input.
FPN_LEVELS = {"fine": ((2, 3, 4), (1,)), "released": ((4,), (3,))}
FPN, GATES, AUDIO_COPIES = one_of(FPN_LEVELS), one_of(("intended", "released")), one_of(("own", "first"))
BLOCKS = Limit("at least 2", lambda n: n >= 2)


class CATRFeatures(NamedTuple):
    """Output of the encoder.

    Attributes:
        memory: `(B, T, h w + T, C)`, the spatial encoder's pixels of map 2, then the sounds of all seconds.
        blocks: pixels `(B, T, h, w, C)` of every block of the temporal encoder.
        maps: the projected maps.
    """

    memory: Tensor
    blocks: tuple[Tensor, ...]
    maps: list[Tensor]


@MODELS.register_module()
class CATRProjection(nn.Module):
    """TPAVI's dilated convolutions for the maps that are read; linear layer, layer norm and dropout for the audio.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio features.
        embed_dims: C.
        dilations: of the summed 3 x 3 convolutions.
        fpn: as in `CATRPyramid`: which maps are read. 'released' reads map 1 nowhere, which is returned as it is.
        dropout: drop rate of the audio.
    """

    @limits(**counts("embed_dims", "dilations"), fpn=FPN, dropout=RATE)
    def __init__(
        self,
        in_channels: Sequence[int],
        audio_channels: int,
        embed_dims: int = 256,
        dilations: Sequence[int] = (3, 6, 12, 18),
        fpn: str = "fine",
        dropout: float = 0.1,
    ):
        super().__init__()
        read = {2, *sum(FPN_LEVELS[fpn], ())}
        self.visual = nn.ModuleList(
            DilatedConvs(c, embed_dims, dilations) if i in read else nn.Identity() for i, c in enumerate(in_channels, 1)
        )
        self.audio = nn.Sequential(
            nn.Linear(audio_channels, embed_dims), nn.LayerNorm(embed_dims, eps=1e-12), nn.Dropout(dropout)
        )

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Project.

        Args:
            maps: `(B * T, C_i, h_i, w_i)` maps of the backbone.
            audio: `(B, T, C_a)`.

        Returns:
            `(B, T, h_i, w_i, C)` maps, those that are not read with C_i channels, and `(B, T, C)` audio.
        """
        return project_maps(self.visual, maps, *audio.shape[:2]), self.audio(audio)


class FrameLayer(nn.Module):
    """Self-attention of the tokens of a frame and a feed-forward network; a layer normalisation after each."""

    def __init__(self, channels: int, num_heads: int, ffn_dims: int, dropout: float):
        super().__init__()
        self.attention = Attention(channels, num_heads, dropout)
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_dims), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dims, channels)
        )
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Map `(N, L, C)` tokens with positions `(L, C)` to the same shape."""
        placed = tokens + positions
        tokens = self.norm1(tokens + self.dropout(self.attention(placed, placed, tokens)))
        return self.norm2(tokens + self.dropout(self.ffn(tokens)))


class TemporalLayer(nn.Module):
    """A layer in each frame, then the pixels of all frames and the sounds of all seconds weight each other.

    With m = attention(x, a, a) the pixels become x * m * m; with n = attention(a, x, x) the sounds become a * n * n.
    There is neither a residual nor a norm: the next layer's norms follow. The last layer does not update the sounds,
    which nothing reads.

    Args:
        channels: C.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward network.
        dropout: drop rate.
        audio_copy: which of the T copies of the sound, one a frame, goes on; see `CATREncoder`.
        last: whether this is the last layer.
    """

    def __init__(self, channels: int, num_heads: int, ffn_dims: int, dropout: float, audio_copy: str, last: bool):
        super().__init__()
        self.audio_copy = audio_copy
        self.frame = FrameLayer(channels, num_heads, ffn_dims, dropout)
        self.to_pixels = Attention(channels, num_heads, dropout)
        self.to_audio = None if last else Attention(channels, num_heads, dropout)

    def forward(self, pixels: Tensor, audio: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            pixels: `(B, T, L, C)`.
            audio: `(B, T, C)`.
            positions: `(L, C)` of the pixels.

        Returns:
            both, of the same shapes.
        """
        b, t, length, _ = pixels.shape
        tokens = self.frame(with_sounds(pixels, audio).flatten(0, 1), F.pad(positions, (0, 0, 0, t)))
        pixels, copies = tokens.unflatten(0, (b, t)).split([length, t], 2)
        audio = copies[:, 0] if self.audio_copy == "first" else copies.diagonal(dim1=1, dim2=2).transpose(1, 2)
        x = pixels.flatten(1, 2)
        m = self.to_pixels(x, audio, audio)
        x = x * m * m
        if self.to_audio is not None:
            n = self.to_audio(audio, x + positions.repeat(t, 1), x)
            audio = audio * n * n
        return x.unflatten(1, (t, length)), audio


def with_sounds(pixels: Tensor, audio: Tensor) -> Tensor:
    """Append the sounds `(B, T, C)` of all seconds to the pixels `(B, T, L, C)` of each frame: `(B, T, L + T, C)`."""
    return torch.cat([pixels, audio.unsqueeze(1).expand(-1, pixels.shape[1], -1, -1)], 2)


@MODELS.register_module()
class CATREncoder(nn.Module):
    """A spatial and a temporal transformer encoder, side by side on the same tokens.

    Tokens of a frame: the pixels of map 2 after a 1 x 1 convolution, with sine positions, and the sounds of all T
    seconds without. The spatial encoder processes each frame independently; for the temporal one see `TemporalLayer`.

    Args:
        embed_dims: channels C, a multiple of 4.
        num_layers: layers of the spatial encoder.
        num_blocks: layers of the temporal encoder, as in `CATRPyramid`.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches and of the attention.
        audio_copy: every frame has its copy of the T sounds. 'own': second t goes on from frame t. 'first': all seconds
            go on from the first frame, as in the public code, by a `zip` over a list that is too short.
    """

    reads_audio = True

    @limits(
        **counts("embed_dims", "num_layers", "num_heads", "ffn_dims"),
        num_blocks=BLOCKS,
        dropout=RATE,
        audio_copy=AUDIO_COPIES,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 3,
        num_blocks: int = 3,
        num_heads: int = 8,
        ffn_dims: int = 2048,
        dropout: float = 0.1,
        audio_copy: str = "own",
    ):
        super().__init__()
        shared = (embed_dims, num_heads, ffn_dims, dropout)
        self.input = nn.Linear(embed_dims, embed_dims)
        self.spatial = nn.ModuleList(FrameLayer(*shared) for _ in range(num_layers))
        self.temporal = nn.ModuleList(
            TemporalLayer(*shared, audio_copy, last=i == num_blocks - 1) for i in range(num_blocks)
        )

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[CATRFeatures, Tensor]:
        """Encode four `(B, T, h_i, w_i, C)` maps, finest first, and `(B, T, C)` audio; the audio is returned as is."""
        x = self.input(maps[1])
        lead, size = x.shape[:2], (x.shape[2], x.shape[3])
        pixels = x.flatten(2, 3)
        positions = sine_positions((size,), x.shape[-1], x.device).to(x.dtype)
        memory = with_sounds(pixels, audio).flatten(0, 1)
        for layer in self.spatial:
            memory = layer(memory, F.pad(positions, (0, 0, 0, lead[1])))
        blocks, sound = [], audio
        for layer in self.temporal:
            pixels, sound = layer(pixels, sound, positions)
            blocks.append(pixels.unflatten(2, size))
        return CATRFeatures(memory.unflatten(0, lead), tuple(blocks), maps), audio


class DecoderLayer(MaskedAttentionLayer):
    """DETR's order: self-attention of the queries, attention to the memory, a feed-forward network; norms after each.

    The first layer has no self-attention: its queries have equal values, of which any mean is the same.
    """

    def __init__(self, channels: int, num_heads: int, ffn_dims: int, dropout: float, first: bool):
        super().__init__(channels, num_heads, ffn_dims, dropout)
        self.first = first
        if first:
            del self.self_attention, self.norm2

    def forward(  # type: ignore[override]
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, positions: Tensor
    ) -> Tensor:
        """Update `(N, Q, C)` queries from the memory `(N, L, C)`."""
        if not self.first:
            placed = queries + query_positions
            queries = self.norm2(queries + self.dropout(self.self_attention(placed, placed, queries)))
        found = self.cross(queries + query_positions, memory + positions, memory)
        queries = self.norm1(queries + self.dropout(found))
        return self.norm3(queries + self.dropout(self.ffn(queries)))


@MODELS.register_module()
class CATRDecoder(nn.Module):
    """Q queries a frame, which attend to the spatial encoder's pixels and sounds.

    Args:
        embed_dims: channels C, a multiple of 4.
        num_queries: Q.
        num_layers: layers.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches and of the attention.
        audio_queries: whether a query is the sum of a learned position and a linear layer of its second's sound: the
            paper's audio-constrained queries. False: all start from one learned vector, as in the public code, whose
            queries get the sound only through the memory.
    """

    @limits(**counts("embed_dims", "num_queries", "num_layers", "num_heads", "ffn_dims"), dropout=RATE)
    def __init__(
        self,
        embed_dims: int = 256,
        num_queries: int = 50,
        num_layers: int = 3,
        num_heads: int = 8,
        ffn_dims: int = 2048,
        dropout: float = 0.1,
        audio_queries: bool = True,
    ):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(num_queries, embed_dims))
        self.audio = nn.Linear(embed_dims, embed_dims) if audio_queries else None
        self.start = None if audio_queries else nn.Parameter(torch.zeros(embed_dims))
        self.layers = nn.ModuleList(
            DecoderLayer(embed_dims, num_heads, ffn_dims, dropout, first=i == 0) for i in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, features: CATRFeatures, audio: Tensor) -> list[Tensor]:
        """Return the normalised queries `(B, T, Q, C)` of every layer, from the encoder's output and its audio."""
        lead, (h, w) = audio.shape[:2], features.blocks[0].shape[2:4]
        memory = features.memory.flatten(0, 1)
        places = sine_positions(((h, w),), memory.shape[-1], memory.device).to(memory.dtype)
        places = F.pad(places, (0, 0, 0, lead[1]))
        start = self.start if self.audio is None else self.audio(audio.flatten(0, 1)).unsqueeze(1)
        queries = start.expand(len(memory), len(self.positions), -1)  # type: ignore[union-attr]
        outputs = []
        for layer in self.layers:
            queries = layer(queries, self.positions, memory, places)
            outputs.append(self.norm(queries).unflatten(0, lead))
        return outputs


class BlockGate(nn.Module):
    """Blocks 2 to n of the temporal encoder, added up: block i with a weight that it and the block before give.

    D_2 = f_2(G_2 X_2), D_i = f_i(D_(i-1) + G_i X_i), f_i a 3 x 3 convolution, batch normalisation and PReLU; the last D
    is the output. Intended: G_i is the mean over the pixels of sigmoid(conv3x3([X_(i-1); X_i])), one number a frame.
    Released: the convolution has two channels; G_2 is the first, later G_i the mean of a second sigmoid over both.
    Later convolutions, which the public code overwrites, are omitted.

    Args:
        channels: C.
        num_blocks: n.
        gate: 'intended' or 'released'.
    """

    def __init__(self, channels: int, num_blocks: int, gate: str):
        super().__init__()
        self.gate = gate
        gates, outputs = (1, 2) if gate == "released" else (num_blocks - 1, 1)
        self.weights = nn.ModuleList(nn.Conv2d(2 * channels, outputs, 3, padding=1) for _ in range(gates))
        self.fusions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.PReLU())
            for _ in range(num_blocks - 1)
        )

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Map n blocks `(N, C, h, w)` to one of them."""
        found = [
            conv(torch.cat(pair, 1)).sigmoid().mean((2, 3), keepdim=True)
            for conv, *pair in zip(self.weights, blocks, blocks[1:], strict=False)
        ]
        if self.gate == "released":
            later = found[0].sigmoid().mean(1, keepdim=True)
            found = [found[0][:, :1], *[later] * (len(blocks) - 2)]
        y = torch.zeros((), dtype=blocks[0].dtype, device=blocks[0].device)
        for fusion, weight, block in zip(self.fusions, found, blocks[1:], strict=True):
            y = fusion(y + weight * block)
        return y


@MODELS.register_module()
class CATRPyramid(nn.Module):
    """Mask features of C / 4 channels: the gate over the temporal encoder's blocks, then the maps of the backbone.

    MTTR's spatial decoder (Botach et al., CVPR 2022) with two levels: 3 x 3 convolutions with group normalisation and
    ReLU; after the second and third the nearest values are taken at the size of a map, which is added.

    Args:
        embed_dims: channels C, a multiple of 8.
        num_blocks: blocks of the temporal encoder.
        gate: weights of the blocks. 'intended': each from its own convolution. 'released': the slip of the public
            code, see `BlockGate`.
        fpn: maps that are added. 'fine': map 2, then map 1, whose size (H / 4) the mask features have; maps 3 and 4,
            which would reach nothing, join map 2. 'released': 4, then 3, which shrinks the features to H / 16, because
            the public code's list of maps still begins at the coarsest one, from which the transformers' input was
            moved to map 2. Must be as in the projection.

    Raises:
        ValueError: if 8 does not divide the channels.
    """

    @limits(**counts("embed_dims"), num_blocks=BLOCKS, gate=GATES, fpn=FPN)
    def __init__(self, embed_dims: int = 256, num_blocks: int = 3, gate: str = "intended", fpn: str = "fine"):
        super().__init__()
        if embed_dims % 8:
            raise ValueError(f"embed_dims: expected a multiple of 8, got {embed_dims}")
        self.gate, self.levels = BlockGate(embed_dims, num_blocks, gate), FPN_LEVELS[fpn]
        widths = [embed_dims, embed_dims, embed_dims // 2, embed_dims // 4, embed_dims // 8]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(math.gcd(8, b), b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.laterals = nn.ModuleDict(
            {
                str(i): nn.Conv2d(embed_dims, c, 1)
                for level, c in zip(self.levels, widths[2:4], strict=True)
                for i in level
            }
        )
        self.output = nn.Conv2d(embed_dims // 8, embed_dims // 4, 3, padding=1)

    def forward(self, features: CATRFeatures, audio: Tensor) -> Tensor:
        """Compute the mask features `(B, T, h, w, C / 4)` from the encoder's output; the audio is not read.

        Raises:
            ValueError: if maps are read here that are not projected, or the encoder has another number of blocks.
        """
        if len(features.blocks) != len(self.gate.fusions) + 1:
            raise ValueError(
                f"num_blocks: the pyramid has {len(self.gate.fusions) + 1}, the encoder {len(features.blocks)}"
            )
        blocks = [rearrange(x, "b t h w c -> (b t) c h w") for x in features.blocks]
        maps = {i: rearrange(features.maps[int(i) - 1], "b t h w c -> (b t) c h w") for i in self.laterals}
        if any(m.shape[1] != blocks[0].shape[1] for m in maps.values()):
            raise ValueError(f"fpn: maps {', '.join(maps)} are read, but the projection has not projected all of them")
        added = {i: lateral(maps[i]) for i, lateral in self.laterals.items()}
        x = self.convs[0](self.gate(blocks))
        for conv, level in zip(self.convs[1:3], self.levels, strict=True):
            size = added[str(level[0])].shape[-2:]
            x = F.interpolate(conv(x), size, mode="nearest")
            for i in level:
                x = x + F.interpolate(added[str(i)], size, mode="nearest")
        return rearrange(self.output(self.convs[3](x)), "(b t) c h w -> b t h w c", b=len(audio))
