"""A plain vision transformer with rotary positions (DINOv3), whose last blocks other tokens may join."""

from functools import partial

import timm
import torch
from timm.models.eva import Eva, EvaBlock, checkpoint_filter_fn
from torch import Tensor, nn

from avsmamba.checkpoint.pretrained import Layout
from avsmamba.limits import AT_LEAST_1, RATE, limits
from avsmamba.models.backbones.timm_backbone import PREFIXES, translate_features
from avsmamba.models.layers.joint_block import whole_mask
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.pretrained_part import PretrainedPart
from avsmamba.registry import MODELS


@MODELS.register_module()
class JointViT(PretrainedPart):
    """One map of a DINOv3 of timm; the last blocks are left to the caller.

    Queries get no rotary position, as the class and register tokens, which pass all blocks.

    Args:
        model_name: as in `timm.list_models("*dinov3*")`.
        checkpoint: local file with pretrained weights, with timm's or the original names; None: random weights.
        joint_blocks: number of the last blocks that are left to the caller; fewer than the model has.
        frozen: no gradients, and always in eval mode.
        drop_path_rate: stochastic depth of the last block, linear from 0 at the first.
        grad_checkpointing: compute activations of the first blocks again in the backward pass.

    Attributes:
        out_channels: channels of the map, in a list.
        strides: `[16]`.
        has_stages: true, for the slot `stage_fusion`; only a fusion that calls `start` goes with it.

    Raises:
        ValueError: if the model is no DINOv3 of patches of 16 pixels, or has too few blocks.
    """

    has_stages = True

    @limits(joint_blocks=AT_LEAST_1, drop_path_rate=RATE)
    def __init__(
        self,
        model_name: str = "vit_base_patch16_dinov3",
        checkpoint: str | None = None,
        joint_blocks: int = 4,
        frozen: bool = False,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
    ):
        super().__init__(model_name, checkpoint, frozen)
        if model_name not in timm.list_models("*patch16_dinov3*"):
            raise ValueError(f"model_name: expected one such as 'vit_base_patch16_dinov3', got {model_name!r}")
        self.model_name, self.grad_checkpointing = model_name, grad_checkpointing
        self.net: Eva = timm.create_model(model_name, num_classes=0, drop_path_rate=drop_path_rate)
        self.first = len(self.net.blocks) - joint_blocks
        if self.first < 1:
            raise ValueError(
                f"joint_blocks: expected less than the model's {len(self.net.blocks)} blocks, got {joint_blocks}"
            )
        self.out_channels, self.strides = [self.net.embed_dim], [16]
        self.freeze()

    def layout(self) -> Layout:
        """Return how files are read."""
        with torch.device("meta"):
            whole = timm.create_model(self.model_name)
        return Layout(self.net, partial(translate_features, self.net, whole, checkpoint_filter_fn), PREFIXES)

    @property
    def joint_blocks(self) -> list[EvaBlock]:
        """The last blocks, which `start` does not run."""
        return list(self.net.blocks[self.first :])

    @property
    def joint_norm(self) -> nn.Module:
        """The normalisation after the last block."""
        return self.net.norm

    def start(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the first blocks.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 16.

        Returns:
            the map `(N, D, H / 16, W / 16)` in a list, and the class and register tokens `(N, P, D)`.
        """
        with self.gradients():
            patches = self.net.patch_embed(x)
            size = patches.shape[1:3]
            tokens, rope = self.net._pos_embed(patches)
            tokens = self.net.norm_pre(tokens)
            for block in self.net.blocks[: self.first]:
                tokens = maybe_checkpoint(block, tokens, rope, recompute=self.grad_checkpointing)
        extra, pixels = tokens.tensor_split((self.net.num_prefix_tokens,), 1)
        return [pixels.transpose(1, 2).unflatten(2, size)], extra

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the map alone, see `start`."""
        return self.start(x)[0]

    def join(
        self, block: EvaBlock, queries: Tensor, pixels: Tensor, size: tuple[int, int], allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run a block on class and register tokens, queries and pixels; as `layers.joint_block.join`."""
        rope = self.net.rope.get_embed(shape=size)
        count = queries.shape[1] - self.net.num_prefix_tokens
        turned = rope.new_tensor([0.0, 1.0]).repeat_interleave(rope.shape[-1] // 2)  # sine and cosine of no rotation
        tokens = torch.cat([queries, pixels], 1)
        tokens = block(tokens, torch.cat([turned.expand(count, -1), rope]), whole_mask(allowed))
        return tokens[:, : queries.shape[1]], tokens[:, queries.shape[1] :]
