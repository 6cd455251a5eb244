"""What the fusion blocks hand to their scan: with a scan that returns its tokens, the wanted ones must come back."""

import pytest
import torch
from torch import nn

from avsmamba.models.layers import A2VFusionBlock, SSMOptions, V2AFusionBlock
from avsmamba.ops import a2v, v2a_frame, v2a_temporal

T, H, W = 3, 2, 4


class Mirror(nn.Module):
    """Returns the wanted tokens unchanged, and keeps the order it was given."""

    def forward(self, tokens, order, out):
        self.order = order
        return tokens[:, out[0] : sum(out)]


class Fixed(nn.Module):
    """Returns the same tokens whatever it is given."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, x):
        return self.tokens


@pytest.fixture
def tokens():
    return torch.randn(2, T, H, W, 8), torch.randn(2, T, 8)


@pytest.mark.parametrize(("level", "order"), [("frame", v2a_frame(H, W)), ("temporal", v2a_temporal(T, H, W))])
def test_vision_to_audio_takes_the_audio_tokens(tokens, level, order):
    block = V2AFusionBlock(8, level, options=SSMOptions(d_state=2))
    block.ssm = Mirror()
    assert torch.equal(block.scan(*tokens), tokens[1])
    assert torch.equal(block.ssm.order, order)


def test_audio_to_vision_takes_the_visual_tokens(tokens):
    block = A2VFusionBlock(8, options=SSMOptions(d_state=2))
    block.ssm = Mirror()
    block.visual_conv, block.audio_conv = Fixed(tokens[0]), Fixed(tokens[1])
    block.output = lambda y, gate, residual: y
    assert torch.equal(block(torch.randn(2, T, H, W, 8), torch.randn(2, T, 8)), tokens[0])
    assert torch.equal(block.ssm.order, a2v(T, H, W))
