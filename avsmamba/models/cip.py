"""Contextual Integration Pyramid (Sec. IV-D, Fig. 5): context and sound at every scale, then a top-down pyramid."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import counts, limits, one_of
from avsmamba.models.layers import A2VFusionBlock, SSMOptions, TemporalMambaBlock
from avsmamba.models.layers.audio_gate import AudioGate
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.ssm import ORDERS, SSM_LIMITS
from avsmamba.registry import MODELS


class ContextFusionBlock(nn.Module):
    """Fig. 5 (b): Temporal Mamba over one scale, then Audio-to-Vision fusion; each may be None."""

    def __init__(
        self,
        temporal_mamba: TemporalMambaBlock | None,
        a2v: A2VFusionBlock | None,
        grad_checkpointing: bool = False,
        gate: AudioGate | None = None,
    ):
        super().__init__()
        self.gate = gate
        self.temporal_mamba, self.a2v = temporal_mamba, a2v
        self.grad_checkpointing = grad_checkpointing

    def forward(self, visual: Tensor, audio: Tensor, temporal_mamba: TemporalMambaBlock | None = None) -> Tensor:
        """Map `(B, T, h, w, C)` and `(B, T, C)` to `(B, T, h, w, C)`; `temporal_mamba` replaces the own block."""
        if self.temporal_mamba is not None:
            block = temporal_mamba or self.temporal_mamba
            new = maybe_checkpoint(block, [visual], recompute=self.grad_checkpointing)
            visual = new[0] if self.gate is None else self.gate([visual], new, audio)[0]
        if self.a2v is not None:
            visual = maybe_checkpoint(self.a2v, visual, audio, recompute=self.grad_checkpointing)
        return visual


class FeaturePyramid(nn.Module):
    """Top-down pyramid: the coarser map, upsampled, plus the finer one, through a 3 x 3 convolution.

    Args:
        channels: C.
        num_scales: number of maps.
        laterals: 'before' (1 x 1 without bias, for `lateral`) or 'after' (1 x 1 with bias, inside `forward`).
        norm: after the 3 x 3 convolutions, 'none' or 'GN'.
        smooth_coarsest: with a 3 x 3 convolution at the coarsest scale as well.
        mask_kernel: size of the last convolution, 3 or 1.
        upsampling: 'bilinear' or 'nearest'.
    """

    def __init__(
        self,
        channels: int,
        num_scales: int,
        laterals: str,
        norm: str,
        smooth_coarsest: bool,
        mask_kernel: int,
        upsampling: str,
    ):
        super().__init__()
        self.laterals_first, self.upsampling = laterals == "before", upsampling

        def lateral() -> nn.Module:
            return (
                nn.Linear(channels, channels, bias=False) if self.laterals_first else nn.Conv2d(channels, channels, 1)
            )

        def smooth() -> nn.Sequential:
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            norms = [nn.GroupNorm(max(1, channels // 8), channels)] if norm == "GN" else []
            return nn.Sequential(conv, *norms, nn.ReLU())

        self.laterals = nn.ModuleList(lateral() for _ in range(num_scales))
        self.smooth = nn.ModuleList(smooth() for _ in range(num_scales if smooth_coarsest else num_scales - 1))
        self.mask_features = nn.Conv2d(channels, channels, mask_kernel, padding=mask_kernel // 2)

    def lateral(self, scale: int, tokens: Tensor) -> Tensor:
        """Apply a scale's lateral to its `(B, T, h, w, C)` map before its block; unchanged if laterals come after."""
        return self.laterals[scale](tokens) if self.laterals_first else tokens

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map `(N, C, h_i, w_i)` maps, finest first, to `(N, C, h_1, w_1)`."""
        y = None
        for i in range(len(maps) - 1, -1, -1):
            x = maps[i] if self.laterals_first else self.laterals[i](maps[i])
            y = x if y is None else x + self.upsample(y, maps[i])
            if i < len(self.smooth):
                y = self.smooth[i](y)
        return self.mask_features(y)

    def upsample(self, y: Tensor, finer: Tensor) -> Tensor:
        """Resize a map to the height and width of a finer one."""
        if self.upsampling == "nearest":
            return F.interpolate(y, size=finer.shape[-2:], mode="nearest")
        return F.interpolate(y, size=finer.shape[-2:], mode="bilinear", align_corners=False)


@MODELS.register_module()
class ContextualIntegrationPyramid(nn.Module):
    """Compute mask features by a Context Fusion Block at each scale 1 to 4 and a top-down pyramid (Fig. 5).

    Without both parts of the Context Fusion Block it is a plain feature pyramid.

    Args:
        embed_dims: channels C.
        temporal_mamba: with the Temporal Mamba block (Table VI).
        a2v: with Audio-to-Vision fusion (Table VI).
        orders: scan directions of the Temporal Mamba block: 2, 4, 6, 8, 10 or 12.
        temporal_conv: depthwise convolution of the Temporal Mamba block: '2d', the authors' (1, 3, 3) kernel, or '3d'.
        a2v_conv: depthwise convolution of the A2V block, '2d' or '3d'.
        audio_conv_kernel: taps of the causal convolution over the audio tokens.
        laterals: the 1 x 1 convolutions of the pyramid 'before' the blocks, without bias, or 'after' them, with bias.
        norm: after the 3 x 3 convolutions, 'none' or 'GN' (group normalisation).
        smooth_coarsest: with a 3 x 3 convolution at stride 32 as at the other scales.
        mask_kernel: size of the last convolution, whose output are the mask features: 3 or 1.
        upsampling: of the coarser map, 'bilinear' (Fig. 5a) or 'nearest' (the authors' code; a released checkpoint
            switches it on).
        repeat_stride_8: the finest scale runs the Temporal Mamba block of stride 8 again instead of its own, an error
            in the authors' code; a released checkpoint switches it on.
        d_state: state size N.
        expand: inner channels over C.
        dt_rank: rank of delta, or 'auto' for ceil(C / 16).
        conv_act: SiLU after the convolutions.
        drop_path: drop rate of residual branches.
        norm_eps: epsilon of the layer normalisations before the blocks.
        grad_checkpointing: keep only the inputs of each block and recompute its activations in the backward pass.
        audio_gate: weight what the Temporal Mamba blocks add to a frame by the frame's own sound (`AudioGate`); not in
            the paper.
    """

    @limits(
        **counts("embed_dims", "audio_conv_kernel"),
        orders=ORDERS,
        laterals=one_of(("before", "after")),
        norm=one_of(("none", "GN")),
        mask_kernel=one_of((1, 3)),
        upsampling=one_of(("bilinear", "nearest")),
        **SSM_LIMITS,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        temporal_mamba: bool = True,
        a2v: bool = True,
        orders: int = 8,
        temporal_conv: str = "2d",
        a2v_conv: str = "2d",
        audio_conv_kernel: int = 4,
        laterals: str = "before",
        norm: str = "none",
        smooth_coarsest: bool = True,
        mask_kernel: int = 3,
        upsampling: str = "bilinear",
        repeat_stride_8: bool = False,
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        conv_act: bool = True,
        drop_path: float = 0.1,
        norm_eps: float = 1e-6,
        grad_checkpointing: bool = False,
        audio_gate: bool = False,
    ):
        super().__init__()
        options = SSMOptions(d_state, expand, dt_rank, conv_act, drop_path, norm_eps)
        self.repeat_stride_8 = repeat_stride_8
        self.fusion = nn.ModuleList(
            ContextFusionBlock(
                TemporalMambaBlock(embed_dims, orders, temporal_conv, options) if temporal_mamba else None,
                A2VFusionBlock(embed_dims, a2v_conv, audio_conv_kernel, options) if a2v else None,
                grad_checkpointing,
                AudioGate(embed_dims) if audio_gate and temporal_mamba else None,
            )
            for _ in range(4)
        )
        self.pyramid = FeaturePyramid(embed_dims, 4, laterals, norm, smooth_coarsest, mask_kernel, upsampling)

    def forward(self, maps: list[Tensor], audio: Tensor) -> Tensor:
        """Compute the mask features.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first.
            audio: `(B, T, C)`, the projected audio before the decoder.

        Returns:
            `(B, T, h_1, w_1, C)`.
        """
        fused = []
        for i, (block, visual) in enumerate(zip(self.fusion, maps, strict=True)):
            repeated = self.fusion[1].temporal_mamba if self.repeat_stride_8 and i == 0 else None
            fused.append(block(self.pyramid.lateral(i, visual), audio, repeated))
        # Contiguous maps become `channels_last` views; one scale cut out of a clip's tokens has to be copied for that.
        y = self.pyramid([rearrange(m.contiguous(), "b t h w c -> (b t) c h w") for m in fused])
        return rearrange(y, "(b t) c h w -> b t h w c", b=audio.shape[0], t=audio.shape[1])
