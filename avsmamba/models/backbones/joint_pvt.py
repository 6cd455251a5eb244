"""PVT-v2 without its last stage, whose last blocks other tokens may join."""

from timm.layers import LayerNorm
from timm.models.pvt_v2 import Block
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_1, RATE, limits
from avsmamba.models.backbones.timm_backbone import TimmBackbone
from avsmamba.models.layers.joint_block import join
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.stage_fusion import Between, unchanged
from avsmamba.registry import MODELS

LAST = "stages_2"


@MODELS.register_module()
class JointPVT(TimmBackbone):
    """Three maps of PVT-v2: its last stage does not exist, and the last blocks of the third one are left to the caller.

    These blocks have no spatial reduction: their weights of it do not exist. Files are read as by `TimmBackbone`.

    Args:
        model_name: a PVT-v2 as in `timm.list_models("pvt_v2_b?")`.
        checkpoint: local file with pretrained weights; None: random weights.
        joint_blocks: number of the last blocks of stage 3 that are left to the caller; fewer than the stage has.
        frozen: as in `TimmBackbone`.
        drop_path_rate: as in `TimmBackbone`.
        grad_checkpointing: as in `TimmBackbone`; the joint blocks are not recomputed.

    Attributes:
        out_channels: channels of the three maps.
        strides: `[4, 8, 16]`.

    Raises:
        ValueError: if the model is no PVT-v2, or has too few blocks.
    """

    expected_strides = (4, 8, 16)

    @limits(joint_blocks=AT_LEAST_1, drop_path_rate=RATE)
    def __init__(
        self,
        model_name: str = "pvt_v2_b5",
        checkpoint: str | None = None,
        joint_blocks: int = 6,
        frozen: bool = False,
        drop_path_rate: float | None = None,
        grad_checkpointing: bool = False,
    ):
        if not model_name.startswith("pvt_v2_b") or model_name.endswith("_li"):
            raise ValueError(f"model_name: expected a PVT-v2 such as 'pvt_v2_b5', got {model_name!r}")
        super().__init__(model_name, checkpoint, (0, 1, 2), frozen, False, drop_path_rate, grad_checkpointing)
        count = len(self.net[LAST].blocks)
        if joint_blocks >= count:
            raise ValueError(f"joint_blocks: expected less than the {count} blocks of stage 3, got {joint_blocks}")
        self.first = count - joint_blocks
        for block in self.joint_blocks:
            block.attn.sr = block.attn.norm = None

    @property
    def joint_blocks(self) -> list[Block]:
        """The last blocks of stage 3, which `forward` does not run."""
        return list(self.net[LAST].blocks[self.first :])

    @property
    def joint_norm(self) -> LayerNorm:
        """The normalisation after the last block."""
        return self.net[LAST].norm

    def forward(self, x: Tensor, between: Between = unchanged) -> list[Tensor]:
        """Extract.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 16.
            between: changes the map of each stage.

        Returns:
            three maps `(N, C_i, H / s_i, W / s_i)`, finest first; the third is the input of the joint blocks.
        """
        maps: list[Tensor] = []
        with self.gradients(between is not unchanged):
            for name, module in self.net.items():
                x = self._first_blocks(module, x) if name == LAST else module(x)
                if name in self.net.return_layers:
                    x = between(len(maps), x)
                    maps.append(x)
        return maps

    def start(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps of `forward`, and no further tokens: `(N, 0, D)`."""
        maps = self(x)
        return maps, maps[2].new_zeros(len(x), 0, self.out_channels[2])

    def join(
        self, block: Block, queries: Tensor, pixels: Tensor, size: tuple[int, int], allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run a block on queries and pixels, see `layers.joint_block.join`."""
        return join(block, queries, pixels, size, allowed)

    def _first_blocks(self, stage: nn.Module, x: Tensor) -> Tensor:
        x = stage.downsample(x)
        size = (x.shape[1], x.shape[2])
        tokens = x.flatten(1, 2)
        for block in stage.blocks[: self.first]:
            tokens = maybe_checkpoint(block, tokens, size, recompute=stage.grad_checkpointing)
        return tokens.transpose(1, 2).unflatten(2, size)
