"""Multi-scale Temporal Encoder (Sec. IV-B, Fig. 2): VSS blocks in each frame, Temporal Mamba blocks over all frames."""

from torch import Tensor, nn

from avsmamba.limits import MAP_NUMBER, POSITIVE, counts, limits
from avsmamba.models.layers import MixFFN, SSMOptions, TemporalMambaBlock, VSSBlock
from avsmamba.models.layers.audio_gate import AudioGate
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.ssm import ORDERS, SSM_LIMITS
from avsmamba.registry import MODELS


@MODELS.register_module()
class MultiScaleTemporalEncoder(nn.Module):
    """Encode maps by `num_layers` times (VSS block, MixFFN, Temporal Mamba block) over `scales` (Eq. 5-10).

    Args:
        embed_dims: channels C.
        num_layers: layers; two in the paper.
        scales: which of the maps 1 to 4 (strides 4 to 32) are encoded; the others pass through.
        vss: with the VSS block and the MixFFN after it (Table IV).
        mix_ffn: with the MixFFN, which the authors' model has and the paper does not mention.
        mlp_ratio: hidden channels of the MixFFN over C.
        temporal_mamba: with the Temporal Mamba block (Table IV).
        orders: scan directions of the Temporal Mamba block: 2, 4, 6, 8, 10 or 12 (Table VII).
        temporal_conv: depthwise convolution of the Temporal Mamba block: '2d', the authors' (1, 3, 3) kernel (a "3D"
            convolution by Fig. 3, a 2D one by Sec. IV-D), or '3d', 3 x 3 x 3.
        d_state: state size N.
        expand: inner channels over C.
        dt_rank: rank of delta, or 'auto' for ceil(C / 16).
        conv_act: SiLU after the depthwise convolutions.
        drop_path: drop rate of residual branches.
        norm_eps: epsilon of the layer normalisations before the blocks.
        grad_checkpointing: keep only the inputs of each block and recompute its activations in the backward pass.
        audio_gate: weight what the Temporal Mamba blocks add to a frame by the frame's own sound (`AudioGate`); not in
            the paper.

    Attributes:
        reads_audio: whether `forward` takes the audio as well.

    Raises:
        ValueError: if both blocks are off (write `encoder: null` instead) or an option is unknown.
    """

    @limits(**counts("embed_dims", "num_layers"), scales=MAP_NUMBER, mlp_ratio=POSITIVE, orders=ORDERS, **SSM_LIMITS)
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 2,
        scales: tuple[int, ...] = (2, 3, 4),
        vss: bool = True,
        mix_ffn: bool = True,
        mlp_ratio: float = 4.0,
        temporal_mamba: bool = True,
        orders: int = 8,
        temporal_conv: str = "2d",
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
        if not (vss or temporal_mamba):
            raise ValueError("vss and temporal_mamba are both off: write `encoder: null` for a model without MTE")
        options = SSMOptions(d_state, expand, dt_rank, conv_act, drop_path, norm_eps)
        self.scales, self.grad_checkpointing = tuple(scales), grad_checkpointing
        self.reads_audio = audio_gate and temporal_mamba
        self.blocks, self.gates = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_layers):
            if vss:
                self.blocks.append(VSSBlock(embed_dims, options))
                if mix_ffn:
                    self.blocks.append(MixFFN(embed_dims, mlp_ratio, options))
            if temporal_mamba:
                self.blocks.append(TemporalMambaBlock(embed_dims, orders, temporal_conv, options))
                if audio_gate:
                    self.gates.append(AudioGate(embed_dims))

    def forward(self, maps: list[Tensor], audio: Tensor | None = None) -> list[Tensor] | tuple[list[Tensor], Tensor]:
        """Map four `(B, T, h_i, w_i, C)` maps, finest first, to maps of the same shapes; with `audio_gate` the audio
        `(B, T, C)` is read and returned unchanged.
        """
        selected = [maps[s - 1] for s in self.scales]
        gates = iter(self.gates)
        for block in self.blocks:
            new = maybe_checkpoint(block, selected, recompute=self.grad_checkpointing)
            if audio is not None and isinstance(block, TemporalMambaBlock):
                new = next(gates)(selected, new, audio)
            selected = new
        encoded = list(maps)
        for scale, new in zip(self.scales, selected, strict=True):
            encoded[scale - 1] = new
        return encoded if audio is None else (encoded, audio)
