"""Blocks of PVT-v2 over queries and pixels against a slow reference, token by token."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.pvt_v2 import Block

from avsmamba.models.layers.joint_block import join

SIZE, D, HEADS = (3, 2), 8, 2


def slow_attention(attention, tokens, seen):
    """Attend among `(L, D)` tokens, where token i sees the tokens of index `seen[i]`."""
    q = attention.q(tokens)
    k, v = attention.kv(tokens).split(D, -1)
    rows = []
    for i, indices in enumerate(seen):
        heads = []
        for s in (slice(0, 4), slice(4, 8)):
            weights = torch.stack([(q[i, s] * k[j, s]).sum() / 2 for j in indices]).exp()
            heads.append(sum(w * v[j, s] for w, j in zip(weights / weights.sum(), indices, strict=True)))
        rows.append(attention.proj(torch.cat(heads)))
    return torch.stack(rows)


def slow_network(mlp, pixels, queries):
    """Run the feed-forward network; a query sees the centre of the depthwise kernel alone."""
    hidden = mlp.fc1(pixels).T.unflatten(1, SIZE)
    padded = F.pad(hidden, (1, 1, 1, 1))
    kernel, bias = mlp.dwconv.weight[:, 0], mlp.dwconv.bias
    out = [
        mlp.fc2(F.gelu((padded[:, y : y + 3, x : x + 3] * kernel).sum((1, 2)) + bias))
        for y in range(SIZE[0])
        for x in range(SIZE[1])
    ]
    single = [mlp.fc2(F.gelu(mlp.fc1(q) * kernel[:, 1, 1] + bias)) for q in queries]
    return torch.stack([*single, *out])


@pytest.mark.parametrize("masked", [False, True])
def test_joint_block_equals_its_definition(masked):
    block = Block(D, HEADS, 2.0, qkv_bias=True).double().eval()
    for name, p in block.named_parameters():
        torch.nn.init.normal_(p, std=1.0 if "norm" in name else 0.4)
    queries, pixels = torch.randn(2, 3, D, dtype=torch.float64), torch.randn(2, 6, D, dtype=torch.float64)
    allowed = torch.rand(2, 3, 6) < 0.5
    allowed[0, 0] = False  # nothing but the queries
    found = join(block, queries, pixels, SIZE, allowed if masked else None)
    assert found[0].shape == queries.shape and found[1].shape == pixels.shape
    for n in range(2):
        everything = [*range(9)]
        seen = [[*range(3), *(3 + j for j in range(6) if allowed[n, i, j] or not masked)] for i in range(3)]
        tokens = torch.cat([queries[n], pixels[n]])
        tokens = tokens + slow_attention(block.attn, block.norm1(tokens), seen + [everything] * 6)
        normed = block.norm2(tokens)
        expected = tokens + slow_network(block.mlp, normed[3:], normed[:3])
        torch.testing.assert_close(torch.cat([found[0][n], found[1][n]]), expected)
