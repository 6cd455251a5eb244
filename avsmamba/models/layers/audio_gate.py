"""A gate on what a block over all frames adds to each frame, from the frame's own sound; not from the paper."""

import torch
from torch import Tensor, nn


class AudioGate(nn.Module):
    """Weight a block's residual per frame and channel: x + sigmoid(W a_t + b) * (block(x) - x).

    Without it a frame in which an object is silent can take over the frames beside it, in which it sounds (the paper's
    Fig. 8). The bias starts at 2, so that most of the residual passes at first.

    Args:
        channels: C of the audio and of the maps.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, 2.0)

    def forward(self, before: list[Tensor], after: list[Tensor], audio: Tensor) -> list[Tensor]:
        """Weight the differences of maps `(B, T, h_i, w_i, C)` by the audio `(B, T, C)`."""
        gate = self.linear(audio).sigmoid()[:, :, None, None]
        return [torch.lerp(x, y, gate.to(x)) for x, y in zip(before, after, strict=True)]
