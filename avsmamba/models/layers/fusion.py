"""The two cross-modal blocks: Vision-to-Audio (Fig. 4, Eq. 11-17) and Audio-to-Vision (Fig. 5 c, Eq. 18-19) fusion.

Both put visual and audio tokens into one sequence. The scan is causal, so the last tokens depend on all others: audio
tokens come last to gather vision, and first to be gathered by vision. Only the receiving tokens have an output, and the
gate comes from them.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import DropPath
from torch import Tensor, nn

from avsmamba.limits import limits, one_of
from avsmamba.models.layers.conv import CausalConv1d, depthwise_conv
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.ops import selective_scan_a2v, selective_scan_v2a


class FusionBlock(nn.Module):
    """Base of both directions of fusion: projections, convolutions and the output.

    `receiver` is the modality ('visual' or 'audio') that is updated: its projection is twice as wide, for the gate.
    """

    def __init__(self, channels: int, receiver: str, conv: str, audio_conv_kernel: int, options: SSMOptions):
        super().__init__()
        inner = options.inner(channels)
        self.visual_norm = nn.LayerNorm(channels, eps=options.norm_eps)
        self.audio_norm = nn.LayerNorm(channels, eps=options.norm_eps)
        self.visual_proj = nn.Linear(channels, inner * (2 if receiver == "visual" else 1), bias=False)
        self.audio_proj = nn.Linear(channels, inner * (2 if receiver == "audio" else 1), bias=False)
        self.visual_conv = depthwise_conv(conv, inner, options.activation)
        self.audio_conv = CausalConv1d(inner, audio_conv_kernel, options.activation)
        self.ssm = MultiDirectionalSSM(channels, 4, options)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.drop_path = DropPath(options.drop_path)

    def output(self, y: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
        """Apply Eq. 16: Linear(Norm(y) * SiLU(gate)) + residual."""
        return residual + self.drop_path(self.out_proj(self.out_norm(y) * F.silu(gate)))


class V2AFusionBlock(FusionBlock):
    """Audio tokens gather one scale's visual tokens.

    Args:
        channels: model channels C.
        level: 'frame' (each frame's audio token after that frame's tokens, cross-scan, Eq. 13-14) or 'temporal' (all T
            audio tokens after the clip's tokens, THW, TWH and the reverses, Eq. 17).
        audio_conv_kernel: taps of the causal convolution (4 as in Mamba).
        options: of all blocks.
        frame_audio_context: input of the causal convolution of level 'frame': 'frame' (the frame's own audio token, a
            sequence of its own) or 'clip' (earlier frames' tokens as well). Level 'temporal' always uses the clip.
    """

    @limits(level=one_of(("frame", "temporal")), frame_audio_context=one_of(("frame", "clip")))
    def __init__(
        self,
        channels: int,
        level: str,
        audio_conv_kernel: int = 4,
        options: SSMOptions | None = None,
        frame_audio_context: str = "frame",
    ):
        super().__init__(channels, "audio", "2d", audio_conv_kernel, options or SSMOptions())
        self.level = level
        self.one_token = level == "frame" and frame_audio_context == "frame"

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Update the audio.

        Args:
            visual: `(B, T, h, w, C)` one scale.
            audio: `(B, T, C)`.

        Returns:
            `(B, T, C)`.
        """
        x, gate = self.audio_proj(self.audio_norm(audio)).chunk(2, dim=-1)
        v = self.visual_conv(self.visual_proj(self.visual_norm(visual)))
        a = self.audio_conv(rearrange(x, "b t e -> (b t) 1 e")).view_as(x) if self.one_token else self.audio_conv(x)
        return self.output(self.scan(v, a), gate, audio)

    def scan(self, v: Tensor, a: Tensor) -> Tensor:
        """Map `(B, T, h, w, E)` and `(B, T, E)` to `(B, T, E)`, the outputs of the audio tokens."""
        audio = a
        if self.level == "frame":
            v, audio = rearrange(v, "b t h w e -> (b t) 1 h w e"), rearrange(a, "b t e -> (b t) 1 e")
        tokens = torch.cat([rearrange(v, "b t h w e -> b (t h w) e"), audio], dim=1)
        return selective_scan_v2a(tokens, self.ssm.scan_parameters(tokens), *v.shape[1:4]).view_as(a)


class A2VFusionBlock(FusionBlock):
    """One scale's visual tokens gather the clip's audio tokens, which come first (Eq. 18-19).

    Args:
        channels: model channels C.
        conv: visual convolution, '2d' (as in the V2A block, the default) or '3d'.
        audio_conv_kernel: taps of the causal convolution (4 as in Mamba).
        options: of all blocks.
    """

    def __init__(self, channels: int, conv: str = "2d", audio_conv_kernel: int = 4, options: SSMOptions | None = None):
        super().__init__(channels, "visual", conv, audio_conv_kernel, options or SSMOptions())

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Update the map.

        Args:
            visual: `(B, T, h, w, C)` one scale.
            audio: `(B, T, C)`.

        Returns:
            `(B, T, h, w, C)`.
        """
        x, gate = self.visual_proj(self.visual_norm(visual)).chunk(2, dim=-1)
        v, a = self.visual_conv(x), self.audio_conv(self.audio_proj(self.audio_norm(audio)))
        tokens = torch.cat([a, rearrange(v, "b t h w e -> b (t h w) e")], dim=1)
        y = selective_scan_a2v(tokens, self.ssm.scan_parameters(tokens), *v.shape[1:4])
        return self.output(y.view_as(v), gate, visual)
