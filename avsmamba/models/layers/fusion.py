"""The two cross-modal blocks: Vision-to-Audio (Fig. 4, Eq. 11-17) and Audio-to-Vision (Fig. 5 c, Eq. 18-19) fusion.

Both put visual and audio tokens into one sequence. The scan is causal, so what stands last has seen the rest: audio
tokens stand last to gather vision, and first to be gathered by vision. Only the tokens of the receiving side leave
the scan, and the gate comes from them.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from avsmamba.models.layers.conv import CausalConv1d, depthwise_conv
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.ops import a2v, v2a_frame, v2a_temporal

LEVELS = ("frame", "temporal")
AUDIO_CONTEXTS = ("frame", "clip")


class FusionBlock(nn.Module):
    """Projections, convolutions and output path that both directions of fusion share.

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
        """Eq. 16: Linear(Norm(y) * SiLU(gate)) + residual."""
        return residual + self.drop_path(self.out_proj(self.out_norm(y) * F.silu(gate)))


class V2AFusionBlock(FusionBlock):
    """Audio tokens gather one scale's visual tokens.

    Args:
        channels: model channels C.
        level: 'frame' (each frame's audio token after that frame's tokens, cross-scan, Eq. 13-14) or 'temporal' (all T
            audio tokens after the clip's tokens, THW, TWH and the reverses, Eq. 17).
        audio_conv_kernel: taps of the causal convolution (4 as in Mamba).
        options: what all blocks share.
        frame_audio_context: what the causal convolution of level 'frame' sees: 'frame' (the frame's own audio token,
            a sequence of its own) or 'clip' (the tokens of earlier frames as well). Level 'temporal' sees the clip.

    Raises:
        ValueError: if `level` or `frame_audio_context` is unknown.
    """

    def __init__(
        self,
        channels: int,
        level: str,
        audio_conv_kernel: int = 4,
        options: SSMOptions | None = None,
        frame_audio_context: str = "frame",
    ):
        for name, value, known in (
            ("level", level, LEVELS),
            ("frame_audio_context", frame_audio_context, AUDIO_CONTEXTS),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}")
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
        a = self.audio_conv(x.flatten(0, 1).unsqueeze(1)).view_as(x) if self.one_token else self.audio_conv(x)
        return self.output(self.scan(v, a), gate, audio)

    def scan(self, v: Tensor, a: Tensor) -> Tensor:
        """`(B, T, h, w, E)` and `(B, T, E)` to `(B, T, E)`: the audio tokens' outputs."""
        t, h, w = v.shape[1:4]
        if self.level == "frame":
            tokens = torch.cat([v.flatten(2, 3), a.unsqueeze(2)], dim=2).flatten(0, 1)
            return self.ssm(tokens, v2a_frame(h, w, device=v.device), out=(h * w, 1)).view_as(a)
        tokens = torch.cat([v.flatten(1, 3), a], dim=1)
        return self.ssm(tokens, v2a_temporal(t, h, w, device=v.device), out=(t * h * w, t))


class A2VFusionBlock(FusionBlock):
    """One scale's visual tokens gather the clip's audio tokens, which stand first (Eq. 18-19).

    Args:
        channels: model channels C.
        conv: visual convolution, '2d' (as in the V2A block, the default) or '3d'.
        audio_conv_kernel: taps of the causal convolution (4 as in Mamba).
        options: what all blocks share.
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
        t, h, w = v.shape[1:4]
        tokens = torch.cat([a, v.flatten(1, 3)], dim=1)
        y = self.ssm(tokens, a2v(t, h, w, device=v.device), out=(t, t * h * w))
        return self.output(y.view_as(v), gate, visual)
