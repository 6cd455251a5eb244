"""Contextual Integration Pyramid (Sec. IV-D, Fig. 5): context and sound into every scale, then a top-down pyramid."""

import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.models.layers import A2VFusionBlock, SSMOptions, TemporalMambaBlock
from avsmamba.models.layers.recompute import run_block
from avsmamba.registry import MODELS


class ContextFusionBlock(nn.Module):
    """Fig. 5 (b): Temporal Mamba over one scale, then Audio-to-Vision fusion; each can be None."""

    def __init__(
        self, temporal_mamba: TemporalMambaBlock | None, a2v: A2VFusionBlock | None, grad_checkpointing: bool = False
    ):
        super().__init__()
        self.temporal_mamba, self.a2v = temporal_mamba, a2v
        self.grad_checkpointing = grad_checkpointing

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Map `(B, T, h, w, C)` and `(B, T, C)` to `(B, T, h, w, C)`."""
        if self.temporal_mamba is not None:
            visual = run_block(self.temporal_mamba, [visual], recompute=self.grad_checkpointing)[0]
        if self.a2v is not None:
            visual = run_block(self.a2v, visual, audio, recompute=self.grad_checkpointing)
        return visual


class FeaturePyramid(nn.Module):
    """Top-down pyramid: the coarser map, upsampled bilinearly, plus a 1 x 1 lateral, through a 3 x 3 convolution."""

    def __init__(self, channels: int, num_scales: int):
        super().__init__()
        groups = max(1, channels // 8)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(num_scales))
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(groups, channels), nn.ReLU()
            )
            for _ in range(num_scales - 1)
        )
        self.mask_features = nn.Conv2d(channels, channels, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map `(N, C, h_i, w_i)` maps, finest first, to `(N, C, h_1, w_1)`."""
        y = self.laterals[-1](maps[-1])
        for i in range(len(maps) - 2, -1, -1):
            up = F.interpolate(y, size=maps[i].shape[-2:], mode="bilinear", align_corners=False)
            y = self.smooth[i](self.laterals[i](maps[i]) + up)
        return self.mask_features(y)


@MODELS.register_module()
class ContextualIntegrationPyramid(nn.Module):
    """A Context Fusion Block for each scale 1 to 4 and a feature pyramid; without both parts it is a plain FPN.

    Args:
        embed_dims: channels C.
        temporal_mamba: with the Temporal Mamba block (Table VI).
        a2v: with Audio-to-Vision fusion (Table VI).
        orders: scan directions of the Temporal Mamba block: 2, 4, 6, 8, 10 or 12.
        temporal_conv: depthwise convolution of the Temporal Mamba block, '3d' (Fig. 3) or '2d' (Sec. IV-D's words).
        a2v_conv: depthwise convolution of the A2V block, '2d' or '3d'.
        audio_conv_kernel: taps of the causal convolution over the audio tokens.
        d_state: state size N.
        expand: inner channels over C.
        dt_rank: rank of delta, or 'auto' for ceil(C / 16).
        conv_act: SiLU after the convolutions.
        drop_path: drop rate of residual branches.
        grad_checkpointing: keep only the inputs of each block, and make its activations again in the backward pass.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        temporal_mamba: bool = True,
        a2v: bool = True,
        orders: int = 8,
        temporal_conv: str = "3d",
        a2v_conv: str = "2d",
        audio_conv_kernel: int = 4,
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        conv_act: bool = True,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        options = SSMOptions(d_state, expand, dt_rank, conv_act, drop_path)
        self.fusion = nn.ModuleList(
            ContextFusionBlock(
                TemporalMambaBlock(embed_dims, orders, temporal_conv, options) if temporal_mamba else None,
                A2VFusionBlock(embed_dims, a2v_conv, audio_conv_kernel, options) if a2v else None,
                grad_checkpointing,
            )
            for _ in range(4)
        )
        self.pyramid = FeaturePyramid(embed_dims, 4)

    def forward(self, maps: list[Tensor], audio: Tensor) -> Tensor:
        """Make the mask features.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first.
            audio: `(B, T, C)`, the projected audio before the decoder.

        Returns:
            `(B, T, h_1, w_1, C)`.
        """
        fused = [block(visual, audio) for block, visual in zip(self.fusion, maps, strict=True)]
        y = self.pyramid([m.flatten(0, 1).permute(0, 3, 1, 2) for m in fused])
        return y.permute(0, 2, 3, 1).unflatten(0, audio.shape[:2])
