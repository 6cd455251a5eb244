"""Modality Aggregation Decoder (Sec. IV-C, Fig. 2 and 4): audio tokens become queries by gathering vision."""

from torch import Tensor, nn

from avsmamba.limits import MAP_NUMBER, counts, limits
from avsmamba.models.layers import SSMOptions, V2AFusionBlock
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.ssm import SSM_LIMITS
from avsmamba.registry import MODELS


@MODELS.register_module()
class ModalityAggregationDecoder(nn.Module):
    """Compute queries by `num_layers` times frame-level (Eq. 11-16) and temporal-level (Eq. 17) fusion with each scale.

    Args:
        embed_dims: channels C.
        num_layers: layers; two in the paper.
        scales: maps 1 to 4 that the audio gathers from, in this order.
        frame_level: with frame-level fusion (Table V).
        temporal_level: with temporal-level fusion (Table V).
        scale_by_scale: each scale goes through both levels before the next one; else the frame level visits all scales,
            then the temporal level does.
        frame_audio_context: input of the causal convolution of the frame level: 'frame' (the frame's own audio
            token) or 'clip' (the tokens of earlier frames as well).
        share_scales: one block for all scales instead of one for each.
        audio_conv_kernel: taps of the causal convolution over the audio tokens.
        d_state: state size N.
        expand: inner channels over C.
        dt_rank: rank of delta, or 'auto' for ceil(C / 16).
        conv_act: SiLU after the convolutions.
        drop_path: drop rate of residual branches.
        norm_eps: epsilon of the layer normalisations before the blocks.
        grad_checkpointing: keep only the inputs of each block and recompute its activations in the backward pass.

    Raises:
        ValueError: if both levels are off (write `decoder: null` instead) or an option is unknown.
    """

    @limits(**counts("embed_dims", "num_layers", "audio_conv_kernel"), scales=MAP_NUMBER, **SSM_LIMITS)
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 2,
        scales: tuple[int, ...] = (2, 3, 4),
        frame_level: bool = True,
        temporal_level: bool = True,
        scale_by_scale: bool = True,
        frame_audio_context: str = "frame",
        share_scales: bool = False,
        audio_conv_kernel: int = 4,
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        conv_act: bool = True,
        drop_path: float = 0.1,
        norm_eps: float = 1e-6,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        if not (frame_level or temporal_level):
            raise ValueError("frame_level and temporal_level are both off: write `decoder: null` for none")
        options = SSMOptions(d_state, expand, dt_rank, conv_act, drop_path, norm_eps)
        self.scales, self.grad_checkpointing, self.scale_by_scale = tuple(scales), grad_checkpointing, scale_by_scale
        levels = [name for name, on in (("frame", frame_level), ("temporal", temporal_level)) if on]
        self.num_levels = len(levels)

        def stage(level: str) -> nn.ModuleList:
            count = 1 if share_scales else len(self.scales)
            return nn.ModuleList(
                V2AFusionBlock(embed_dims, level, audio_conv_kernel, options, frame_audio_context) for _ in range(count)
            )

        self.stages = nn.ModuleList(stage(level) for _ in range(num_layers) for level in levels)

    def forward(self, maps: list[Tensor], audio: Tensor) -> list[Tensor]:
        """Compute the queries.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first.
            audio: `(B, T, C)`.

        Returns:
            The queries of every layer, `(B, T, 1, C)`: one a frame. The last layer's predict.
        """
        queries = []
        for first in range(0, len(self.stages), self.num_levels):
            layer = self.stages[first : first + self.num_levels]
            visits = [(stage, i) for i in range(len(self.scales)) for stage in layer]
            if not self.scale_by_scale:
                visits = [(stage, i) for stage in layer for i in range(len(self.scales))]
            for stage, i in visits:
                block = stage[i % len(stage)]
                audio = maybe_checkpoint(block, maps[self.scales[i] - 1], audio, recompute=self.grad_checkpointing)
            queries.append(audio.unsqueeze(2))
        return queries
