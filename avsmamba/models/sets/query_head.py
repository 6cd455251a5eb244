"""The head of set prediction: classes of the queries, and from sets of masks to one map of classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import counts, limits
from avsmamba.models.head import HeadOutput
from avsmamba.models.sets.masked_attention import QueryMasks, mlp, query_masks
from avsmamba.registry import MODELS

INFERENCE = ("semantic", "best")


@MODELS.register_module()
class QuerySetHead(nn.Module):
    """Class logits of each query, the last for 'no object', and logits of the frame from the set of masks.

    Semantic inference (Mask2Former): the score of class k at a pixel is the sum over queries of the class's
    probability times the mask's. With one class the logit is log(s / (1 - s)) of the score s, with several log(s), of
    which the softmax gives scores that sum to 1.

    Args:
        embed_dims: channels C of the queries.
        num_classes: K; 1 for S4 and MS3.
        kernel_dims: widths of an MLP from the queries to the kernels of the masks, for decoders that give queries alone
            (`(B, T, Q, C)`): the last is the number of channels of the mask features. Empty: the decoder gives masks.
        inference: 'semantic', or 'best' (one class alone): the mask of the query with the greatest probability.
        background: whether class 0 is predicted like the others, where there are several classes. False: its score is 1
            minus the greatest of the others, at least 0.
        upsample: factor by which masks are enlarged before semantic inference in eval mode; 4: to the size of the
            frames, as Mask2Former does.
        logit_gradient: whether losses on the logits reach the model; false saves memory where there are none.

    Raises:
        ValueError: if `inference` is unknown, or is 'best' with several classes.
    """

    @limits(**counts("embed_dims", "num_classes", "kernel_dims", "upsample"))
    def __init__(
        self,
        embed_dims: int = 256,
        num_classes: int = 1,
        kernel_dims: Sequence[int] = (),
        inference: str = "semantic",
        background: bool = True,
        upsample: int = 1,
        logit_gradient: bool = True,
    ):
        super().__init__()
        if inference not in INFERENCE:
            raise ValueError(f"inference: expected one of {INFERENCE}, got {inference!r}")
        if inference == "best" and num_classes > 1:
            raise ValueError(f"inference: 'best' is for one class, got num_classes {num_classes}")
        self.num_classes, self.inference, self.background = num_classes, inference, background
        self.upsample, self.logit_gradient = upsample, logit_gradient
        self.classifier = nn.Linear(embed_dims, num_classes + 1)
        self.kernels = mlp(embed_dims, *kernel_dims) if kernel_dims else None

    def forward(self, query: QueryMasks | Tensor, mask_features: Tensor) -> HeadOutput:
        """Predict.

        Args:
            query: queries and masks, or with `kernel_dims` queries `(B, T, Q, C)` alone.
            mask_features: `(B, T, h, w, C)`; read with `kernel_dims` alone.

        Returns:
            Logits `(B, T, K, h, w)` and the set of class logits `(B, T, Q, K + 1)` and mask logits `(B, T, Q, h, w)`.

        Raises:
            ValueError: if the decoder gives no masks and `kernel_dims` is empty, or the other way round.
        """
        if isinstance(query, Tensor) == (self.kernels is None):
            has = "queries alone" if isinstance(query, Tensor) else "masks"
            raise ValueError(
                f"kernel_dims: the decoder gives {has}, got {'none' if self.kernels is None else 'widths'}"
            )
        if isinstance(query, Tensor):
            kernels = self.kernels(query).flatten(0, 1)  # type: ignore[misc]
            query = QueryMasks(query, query_masks(kernels, mask_features.flatten(0, 1)).unflatten(0, query.shape[:2]))
        classes = self.classifier(query.queries)
        with torch.set_grad_enabled(self.logit_gradient and torch.is_grad_enabled()):
            logits = self.logits(classes, query.masks)
        return HeadOutput(logits, queries=(classes, query.masks))

    def logits(self, classes: Tensor, masks: Tensor) -> Tensor:
        """Return logits `(B, T, K, h, w)` of class logits `(B, T, Q, K + 1)` and mask logits `(B, T, Q, h, w)`."""
        kind = torch.promote_types(masks.dtype, torch.float32)
        masks = masks.to(kind)
        if self.upsample > 1 and not self.training:
            masks = F.interpolate(masks.flatten(0, 1), scale_factor=self.upsample, mode="bilinear").unflatten(
                0, masks.shape[:2]
            )
        probability = classes.to(kind).softmax(-1)[..., :-1]
        if self.inference == "best":
            best = probability.argmax(2, keepdim=True).unsqueeze(-1)
            return masks.take_along_dim(best, 2)
        score = torch.einsum("btqk,btqhw->btkhw", probability, masks.sigmoid())
        if self.num_classes == 1:
            return score.logit(1e-6)
        if not self.background:
            others = score[:, :, 1:]
            score = torch.cat([(1 - others.amax(2, keepdim=True)).clamp(min=0), others], 2)
        return score.clamp(min=1e-6).log()
