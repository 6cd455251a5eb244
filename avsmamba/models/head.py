"""Segmentation head (end of Sec. IV-D): audio query x mask features -> intermediate mask -> MLP -> N_class logits."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import counts, limits
from avsmamba.registry import MODELS


class HeadOutput(NamedTuple):
    """What a head gives out.

    Attributes:
        logits: `(B, T, N_class, h, w)`, at whatever size the head works.
        intermediate: mask `(B, T, 1, h', w')` for the auxiliary losses, or None.
        pairs: maps `(B, T, h_i, w_i, C)`, each with the audio `(B, T, C)` that a matching loss holds against it.
    """

    logits: Tensor
    intermediate: Tensor | None = None
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()


@MODELS.register_module()
class AudioQueryHead(nn.Module):
    """Masks from one audio query a frame.

    Args:
        embed_dims: channels C.
        num_classes: N_class; 1 for S4 and MS3.
        residual: add the mask features to what the MLP makes of the intermediate mask, as AVSegFormer's head does.
            Without it all that reaches the last layer has passed through one channel, which cannot tell classes apart.
        scaled: divide the product by sqrt(C), as attention does; the paper names the bare product.
        bounded: the MLP sees the sigmoid of the intermediate mask. What it makes of a bare product grows with it, for
            every class in another measure, and drowns what the mask features say of the class.
        add_query: add the query to what the last layer sees, at every pixel: it then hears itself which sounds there
            are, rather than by what the pyramid left of them in the mask features.
    """

    @limits(**counts("embed_dims", "num_classes"))
    def __init__(
        self,
        embed_dims: int = 256,
        num_classes: int = 1,
        residual: bool = True,
        scaled: bool = False,
        bounded: bool = False,
        add_query: bool = False,
    ):
        super().__init__()
        self.residual, self.bounded, self.add_query = residual, bounded, add_query
        self.scale = embed_dims**-0.5 if scaled else 1.0
        self.mlp_in = nn.Linear(1, embed_dims)
        self.mlp_out = nn.Linear(embed_dims, embed_dims)
        self.classifier = nn.Linear(embed_dims, num_classes)

    def forward(self, query: Tensor, mask_features: Tensor) -> HeadOutput:
        """Predict.

        Args:
            query: `(B, T, 1, C)`.
            mask_features: `(B, T, h, w, C)`.
        """
        intermediate = torch.einsum("btqc,bthwc->bthwq", query, mask_features) * self.scale
        y = self.mlp_out(F.relu(self.mlp_in(intermediate.sigmoid() if self.bounded else intermediate)))
        if self.residual:
            y = y + mask_features
        if self.add_query:
            y = y + query.unsqueeze(2)
        return HeadOutput(self.classifier(y).movedim(-1, 2), intermediate.movedim(-1, 2))
