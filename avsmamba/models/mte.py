"""Multi-scale Temporal Encoder (Sec. IV-B, Fig. 2): VSS blocks inside the frames, Temporal Mamba blocks across them."""

from torch import Tensor, nn

from avsmamba.models.layers import SSMOptions, TemporalMambaBlock, VSSBlock
from avsmamba.models.layers.recompute import run_block
from avsmamba.registry import MODELS


@MODELS.register_module()
class MultiScaleTemporalEncoder(nn.Module):
    """`num_layers` times (VSS block, Temporal Mamba block) over the tokens of `scales` in one sequence (Eq. 5-10).

    Args:
        embed_dims: channels C.
        num_layers: layers; two in the paper.
        scales: which of the maps 1 to 4 (strides 4 to 32) are encoded; the others pass through.
        vss: with the VSS block (Table IV).
        temporal_mamba: with the Temporal Mamba block (Table IV).
        orders: scan directions of the Temporal Mamba block: 2, 4, 6, 8, 10 or 12 (Table VII).
        temporal_conv: depthwise convolution of the Temporal Mamba block, '3d' (Fig. 3) or '2d'.
        d_state: state size N.
        expand: inner channels over C.
        dt_rank: rank of delta, or 'auto' for ceil(C / 16).
        conv_act: SiLU after the depthwise convolutions.
        drop_path: drop rate of residual branches.
        grad_checkpointing: keep only the inputs of each block, and make its activations again in the backward pass.

    Raises:
        ValueError: if both blocks are off (write `encoder: null` instead) or an option is unknown.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 2,
        scales: tuple[int, ...] = (2, 3, 4),
        vss: bool = True,
        temporal_mamba: bool = True,
        orders: int = 8,
        temporal_conv: str = "3d",
        d_state: int = 16,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        conv_act: bool = True,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        if not (vss or temporal_mamba):
            raise ValueError("vss and temporal_mamba are both off: write `encoder: null` for a model without MTE")
        options = SSMOptions(d_state, expand, dt_rank, conv_act, drop_path)
        self.scales, self.grad_checkpointing = tuple(scales), grad_checkpointing
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            if vss:
                self.blocks.append(VSSBlock(embed_dims, options))
            if temporal_mamba:
                self.blocks.append(TemporalMambaBlock(embed_dims, orders, temporal_conv, options))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map four `(B, T, h_i, w_i, C)` maps, finest first, to maps of the same shapes."""
        selected = [maps[s - 1] for s in self.scales]
        for block in self.blocks:
            selected = run_block(block, selected, recompute=self.grad_checkpointing)
        encoded = list(maps)
        for scale, new in zip(self.scales, selected, strict=True):
            encoded[scale - 1] = new
        return encoded
