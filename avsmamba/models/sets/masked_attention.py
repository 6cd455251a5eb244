"""Mask2Former's transformer decoder: each query attends to the pixels that it marked so far."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import MAP_NUMBER, RATE, counts, limits
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.registry import MODELS

AUDIO = ("none", "add", "replace")


class QueryMasks(NamedTuple):
    """What a set decoder gives for one layer.

    Attributes:
        queries: `(B, T, Q, C)`, normalised, for the classes.
        masks: `(B, T, Q, h, w)` logits, at the size of the mask features.
    """

    queries: Tensor
    masks: Tensor


def mlp(*widths: int) -> nn.Sequential:
    """Build linear layers with a ReLU between them."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        layers += [nn.Linear(c_in, c_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Attention(nn.Module):
    """Multi-head attention whose mask is the same for all heads.

    Args:
        channels: C.
        num_heads: heads; they divide C.
        dropout: drop rate of the attention weights.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide {channels} channels")
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.output):
            # The start of nn.MultiheadAttention, whose first three layers are one matrix.
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if layer is self.output else 2**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: `(N, Q, C)`.
            key: `(N, L, C)`.
            value: `(N, L, C)`.
            allowed: `(N, Q, L)` bool, which keys a query may attend to, at least one; None: all.

        Returns:
            `(N, Q, C)`.
        """
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = None if allowed is None else allowed.unsqueeze(1)
        drop = self.dropout if self.training else 0.0
        return self.output(F.scaled_dot_product_attention(q, k, v, mask, drop).transpose(1, 2).flatten(2))


class MaskedAttentionLayer(nn.Module):
    """Attention to the pixels of one map, self-attention of the queries, a feed-forward network; norms after each."""

    def __init__(self, channels: int, num_heads: int, ffn_dims: int, dropout: float):
        super().__init__()
        self.cross = Attention(channels, num_heads, dropout)
        self.self_attention = Attention(channels, num_heads, dropout)
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_dims), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_dims, channels)
        )
        for layer in (self.ffn[0], self.ffn[3]):
            nn.init.xavier_uniform_(layer.weight)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, query_positions: Tensor, pixels: Tensor, positions: Tensor, allowed: Tensor | None
    ) -> Tensor:
        """Update `(N, Q, C)` queries from `(N, L, C)` pixels; `allowed` is `(N, Q, L)`, see `Attention`."""
        found = self.cross(queries + query_positions, pixels + positions, pixels, allowed)
        queries = self.norm1(queries + self.dropout(found))
        placed = queries + query_positions
        queries = self.norm2(queries + self.dropout(self.self_attention(placed, placed, queries)))
        return self.norm3(queries + self.dropout(self.ffn(queries)))


@MODELS.register_module()
class MaskedAttentionDecoder(nn.Module):
    """Q queries a frame, which visit the scales in turn; each layer's masks say where the next one attends to.

    A query attends to the pixels at which its mask of the layer before, resized to the map, is at least 0.5; where
    there are none, to all. The first map are the mask features. Queries are learned vectors, plus learned positions.

    Source: Mask2Former (Cheng et al., CVPR 2022, Sec. 3.2 and 4); each frame is decoded alone.

    Args:
        embed_dims: channels C, a multiple of 4.
        num_queries: Q.
        num_layers: layers.
        scales: maps 2 to 4 that the layers visit, in this order, again and again.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches and of the attention.
        audio: how a frame's sound enters its queries: 'none', 'add' (added to the learned vectors) or 'replace' (it is
            every query; only the positions are learned).
        audio_dims: hidden widths of the MLP from the audio to C channels; none: one linear layer.
        masked: whether attention is masked; false: to all pixels.

    Raises:
        ValueError: if `audio` is unknown, or heads or positions do not fit the channels.
    """

    @limits(
        **counts("embed_dims", "num_queries", "num_layers", "num_heads", "ffn_dims", "audio_dims"),
        scales=MAP_NUMBER,
        dropout=RATE,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        num_queries: int = 100,
        num_layers: int = 9,
        scales: Sequence[int] = (4, 3, 2),
        num_heads: int = 8,
        ffn_dims: int = 2048,
        dropout: float = 0.0,
        audio: str = "add",
        audio_dims: Sequence[int] = (),
        masked: bool = True,
    ):
        super().__init__()
        if audio not in AUDIO:
            raise ValueError(f"audio: expected one of {AUDIO}, got {audio!r}")
        self.scales, self.masked = tuple(scales), masked
        self.content = nn.Parameter(torch.randn(num_queries, embed_dims)) if audio != "replace" else None
        self.positions = nn.Parameter(torch.randn(num_queries, embed_dims))
        self.levels = nn.Parameter(torch.randn(len(self.scales), embed_dims))
        self.audio = mlp(embed_dims, *audio_dims, embed_dims) if audio != "none" else None
        self.layers = nn.ModuleList(
            MaskedAttentionLayer(embed_dims, num_heads, ffn_dims, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dims)
        self.kernels = mlp(embed_dims, embed_dims, embed_dims, embed_dims)

    def forward(self, maps: list[Tensor], audio: Tensor) -> list[QueryMasks]:
        """Decode.

        Args:
            maps: mask features `(B, T, h, w, C)` and the three coarser maps.
            audio: `(B, T, C)`.

        Returns:
            The queries before the first layer and after each layer, with their masks.
        """
        lead = audio.shape[:2]
        features = maps[0].flatten(0, 1)
        visited = [maps[s - 1].flatten(0, 1) for s in self.scales]
        sizes = [(m.shape[1], m.shape[2]) for m in visited]
        pixels = [m.flatten(1, 2) + level for m, level in zip(visited, self.levels, strict=True)]
        places = [sine_positions((s,), m.shape[-1], m.device).to(m.dtype) for s, m in zip(sizes, pixels, strict=True)]
        queries = self.initial_queries(audio.flatten(0, 1))
        outputs = [self.predict(queries, features)]
        for i, layer in enumerate(self.layers):
            scale = i % len(self.scales)
            allowed = allowed_pixels(outputs[-1].masks, sizes[scale]) if self.masked else None
            queries = layer(queries, self.positions, pixels[scale], places[scale], allowed)
            outputs.append(self.predict(queries, features))
        return [QueryMasks(q.unflatten(0, lead), m.unflatten(0, lead)) for q, m in outputs]

    def initial_queries(self, audio: Tensor) -> Tensor:
        """Make queries `(N, Q, C)` of `(N, C)` audio; a method with another conditioning overrides this."""
        if self.audio is None:
            return self.content.expand(len(audio), -1, -1)  # type: ignore[union-attr]
        sound = self.audio(audio).unsqueeze(1)
        return sound.expand(-1, len(self.positions), -1) if self.content is None else self.content + sound

    def predict(self, queries: Tensor, features: Tensor) -> QueryMasks:
        """Return the normalised queries `(N, Q, C)` and mask logits `(N, Q, h, w)` on features `(N, h, w, C)`."""
        queries = self.norm(queries)
        return QueryMasks(queries, query_masks(self.kernels(queries), features))


def query_masks(kernels: Tensor, features: Tensor) -> Tensor:
    """Return mask logits `(N, Q, h, w)`: the products of kernels `(N, Q, C)` and mask features `(N, h, w, C)`."""
    return (kernels @ features.flatten(1, 2).transpose(1, 2)).unflatten(-1, features.shape[1:3])


def allowed_pixels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which pixels `(N, Q, L)` of a map are in the masks of logits `(N, Q, h, w)`; all for an empty mask."""
    resized = F.interpolate(masks.detach(), size=size, mode="bilinear", align_corners=False)
    inside = resized.flatten(2) >= 0
    return inside | ~inside.any(-1, keepdim=True)
