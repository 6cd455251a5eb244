"""A transformer block of PVT-v2 over two kinds of tokens: pixels, and queries without a place in the frame."""

import torch
import torch.nn.functional as F
from timm.models.pvt_v2 import Attention, Block
from torch import Tensor


def join(
    block: Block, queries: Tensor, pixels: Tensor, size: tuple[int, int], allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run one of timm's PVT-v2 blocks on the sequence of queries and pixels.

    Self-attention is over all of them, without spatial reduction. The depthwise convolution of the feed-forward network
    sees each query as a map of one pixel.

    Args:
        block: without spatial reduction (`sr_ratio` 1).
        queries: `(N, Q, D)`.
        pixels: `(N, h * w, D)`.
        size: (h, w).
        allowed: `(N, Q, h * w)` bool, the pixels that a query may attend to; None: all. Pixels attend to everything.

    Returns:
        queries and pixels of the same shapes.
    """
    count = queries.shape[1]
    tokens = torch.cat([queries, pixels], 1)
    tokens = tokens + block.drop_path1(attend(block.attn, block.norm1(tokens), allowed))
    normed = block.norm2(tokens)
    single = block.mlp(normed[:, :count].flatten(0, 1).unsqueeze(1), (1, 1)).view_as(queries)
    tokens = tokens + block.drop_path2(torch.cat([single, block.mlp(normed[:, count:], size)], 1))
    return tokens[:, :count], tokens[:, count:]


def attend(attention: Attention, tokens: Tensor, allowed: Tensor | None) -> Tensor:
    """Return the self-attention of `(N, Q + L, D)` tokens; `allowed` is `(N, Q, L)`, see `join`."""
    heads = (attention.num_heads, -1)
    q, k, v = (
        x.unflatten(-1, heads).transpose(1, 2) for x in (attention.q(tokens), *attention.kv(tokens).chunk(2, -1))
    )
    drop = attention.attn_drop.p if attention.training else 0.0
    found = F.scaled_dot_product_attention(q, k, v, whole_mask(allowed), drop).transpose(1, 2).flatten(2)
    return attention.proj_drop(attention.proj(found))


def whole_mask(allowed: Tensor | None) -> Tensor | None:
    """Return `(N, 1, Q + L, Q + L)`, who may attend to whom, of the pixels `(N, Q, L)` of the queries, or None."""
    if allowed is None:
        return None
    return F.pad(allowed, (allowed.shape[1], 0, 0, allowed.shape[2]), value=True).unsqueeze(1)
