"""The fusion blocks return the receiving tokens: state space models with C = 0 and D = 1 / K return what they scan."""

import pytest
import torch
from torch import nn

from avsmamba.models.layers import A2VFusionBlock, SSMOptions, V2AFusionBlock

T, H, W = 3, 2, 4


class Fixed(nn.Module):
    """Returns the same tokens for any input."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, x):
        return self.tokens


@pytest.fixture
def tokens():
    return torch.randn(2, T, H, W, 8), torch.randn(2, T, 8)


def mirroring(block):
    nn.init.zeros_(block.ssm.x_proj_weight)
    nn.init.constant_(block.ssm.D, 0.25)
    return block


@pytest.mark.parametrize("level", ["frame", "temporal"])
def test_vision_to_audio_takes_the_audio_tokens(tokens, level):
    block = mirroring(V2AFusionBlock(4, level, options=SSMOptions(d_state=2)))
    assert torch.equal(block.scan(*tokens), tokens[1])


def test_audio_to_vision_takes_the_visual_tokens(tokens):
    block = mirroring(A2VFusionBlock(4, options=SSMOptions(d_state=2)))
    block.visual_conv, block.audio_conv = Fixed(tokens[0]), Fixed(tokens[1])
    block.output = lambda y, gate, residual: y
    assert torch.equal(block(torch.randn(2, T, H, W, 4), torch.randn(2, T, 4)), tokens[0])
