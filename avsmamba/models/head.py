"""Segmentation head (end of Sec. IV-D): audio query x mask features -> intermediate mask -> MLP -> N_class logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import counts, limits
from avsmamba.models.layers.curve import CurveMLP
from avsmamba.models.layers.upsampled_conv import upsampled_classes
from avsmamba.registry import MODELS


class HeadOutput(NamedTuple):
    """Output of a head.

    Attributes:
        logits: `(B, T, N_class, h, w)`, at the head's own size.
        intermediate: mask `(B, T, 1, h', w')` for the auxiliary losses, or None.
        pairs: maps `(B, T, h_i, w_i, C)`, each with the audio `(B, T, C)` that a matching loss compares with it.
        queries: class logits `(B, T, Q, K + 1)` and mask logits `(B, T, Q, h', w')` for the set losses, or None.
    """

    logits: Tensor
    intermediate: Tensor | None = None
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()
    queries: tuple[Tensor, Tensor] | None = None


SCALE = 4  # from the mask features to the frames


@MODELS.register_module()
class AudioQueryHead(nn.Module):
    """Masks from one audio query a frame.

    The product of query and mask features goes through an MLP, and the mask features are added; two 3 x 3 convolutions
    with a bilinear upsampling between them, ReLU and a 1 x 1 convolution give logits at the size of the frames. The
    defaults are the authors' head (AVSegFormer's, with one query).

    Args:
        embed_dims: channels C.
        num_classes: N_class; 1 for S4 and MS3.
        mlp_dims: widths of the hidden layers of the MLP, one or more.
        hidden_dims: channels after the 3 x 3 convolutions before and after the upsampling. `[]`: only the last layer,
            and logits have the size of the mask features.
        classifier_bias: of the last layer.
        residual: add the mask features to the MLP's output, as AVSegFormer's head does. Without them all information
            passes through one channel, which cannot separate classes.
        scaled: divide the product by sqrt(C), as attention does; the paper names the plain product.
        bounded: the MLP's input is the sigmoid of the intermediate mask. With a plain product the MLP's output grows
            with it, differently for each class, and outweighs the mask features.
        add_query: add the query to the input of the last layers, at every pixel: they then receive the sound directly,
            not only through the mask features.

    Raises:
        ValueError: if a width is not positive, `mlp_dims` is empty, or `hidden_dims` has neither two numbers nor none.
    """

    @limits(**counts("embed_dims", "num_classes", "mlp_dims", "hidden_dims"))
    def __init__(
        self,
        embed_dims: int = 256,
        num_classes: int = 1,
        mlp_dims: Sequence[int] = (2048, 2048),
        hidden_dims: Sequence[int] = (128, 32),
        classifier_bias: bool = False,
        residual: bool = True,
        scaled: bool = False,
        bounded: bool = False,
        add_query: bool = False,
    ):
        super().__init__()
        if not mlp_dims:
            raise ValueError("mlp_dims: expected one width or more, got []")
        if len(hidden_dims) not in (0, 2):
            raise ValueError(f"hidden_dims: expected two numbers of channels or none, got {list(hidden_dims)}")
        self.residual, self.bounded, self.add_query = residual, bounded, add_query
        self.scale = embed_dims**-0.5 if scaled else 1.0
        self.mlp = CurveMLP((*mlp_dims, embed_dims))
        channels = [embed_dims, *hidden_dims]
        self.hidden = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(channels))
        self.classifier = nn.Linear(channels[-1], num_classes, bias=classifier_bias)

    def forward(self, query: Tensor, mask_features: Tensor) -> HeadOutput:
        """Predict: logits are `(B, T, N_class, 4 h, 4 w)`, or `(B, T, N_class, h, w)` without `hidden_dims`.

        Args:
            query: `(B, T, 1, C)`.
            mask_features: `(B, T, h, w, C)`.
        """
        intermediate = torch.einsum("btqc,bthwc->bthwq", query, mask_features) * self.scale
        y = self.mlp(intermediate.sigmoid() if self.bounded else intermediate)
        if self.residual:
            y = y + mask_features
        if self.add_query:
            y = y + query.unsqueeze(2)
        return HeadOutput(self.classify(y), intermediate.movedim(-1, 2))

    def classify(self, y: Tensor) -> Tensor:
        """Map `(B, T, h, w, C)` to logits."""
        if not len(self.hidden):
            return self.classifier(y).movedim(-1, 2)
        conv_in, conv_out = self.hidden
        small = conv_in(rearrange(y, "b t h w c -> (b t) c h w")).permute(0, 2, 3, 1)
        last = self.classifier
        logits = upsampled_classes(small, conv_out.weight, conv_out.bias, last.weight, last.bias, SCALE)
        return logits.unflatten(0, y.shape[:2])
