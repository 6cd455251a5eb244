"""TPAVI's audio-visual mapping loss."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.registry import MODELS

REDUCTIONS = ("sum", "mean")


@MODELS.register_module()
class AVMLoss(nn.Module):
    """Kullback-Leibler divergence between the sound and what the predicted mask cuts out of a map (TPAVI's L_AVM-AV).

    For each scale: KL(softmax(a) || softmax(v)), v the mean over the pixels of map x sigmoid(pooled logits), a the
    audio feature, both `(C,)` a frame; the mean over the scales. It needs no labels, so that all frames count.

    Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022; their MS3 training has weight 0.5 and `sum`.

    Args:
        loss_weight: lambda.
        reduction: over the frames of a batch, 'sum' (their code) or 'mean' (independent of the batch size).

    Raises:
        ValueError: if the reduction is unknown, or the logits have more than one class.
    """

    def __init__(self, loss_weight: float = 0.5, reduction: str = "sum"):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")
        self.loss_weight, self.reduction = loss_weight, reduction

    def forward(self, logits: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Compare.

        Args:
            logits: `(B, T, 1, h, w)`.
            pairs: a map `(B, T, h_i, w_i, C)` and the audio `(B, T, C)`, for each scale.
        """
        if logits.shape[2] != 1:
            raise ValueError(f"AVMLoss: expected logits of one class, got {logits.shape[2]}")
        logits = logits.flatten(0, 1).float()
        total = logits.new_zeros(())
        for visual, audio in pairs:
            mask = F.adaptive_avg_pool2d(logits, visual.shape[2:4]).sigmoid().movedim(1, -1)
            cut = (visual.flatten(0, 1).float() * mask).mean((1, 2)).log_softmax(-1)
            divergence = F.kl_div(cut, audio.flatten(0, 1).float().log_softmax(-1), reduction="none", log_target=True)
            frames = divergence.sum(-1)
            total = total + (frames.sum() if self.reduction == "sum" else frames.mean())
        return self.loss_weight * total / max(1, len(pairs))
