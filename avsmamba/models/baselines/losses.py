"""TPAVI's audio-visual mapping loss."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, limits, one_of
from avsmamba.models.layers.totals import at_least_float32, batch_total
from avsmamba.registry import MODELS


@MODELS.register_module()
class AVMLoss(nn.Module):
    """Kullback-Leibler divergence between the sound and the part of a map under the predicted mask (TPAVI's L_AVM-AV).

    For each scale: KL(softmax(a) || softmax(v)), v the mean over the pixels of map x mask, a the audio feature, both
    `(C,)` a frame; the mean over the scales. The mask is the sigmoid of the pooled logits; with several classes, the
    share of a cell's pixels whose greatest logit is not that of class 0, the background: it then has no gradient.

    Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022. Their code has weight 0.5 in MS3, where it sums over all
    frames of a batch, and in AVSS, where it averages over the labelled ones (and takes the last class for the
    background, which is class 0).

    Args:
        loss_weight: lambda.
        reduction: over the frames of a batch, that of all processes: 'sum' (their MS3) or 'mean' (their AVSS; does not
            depend on the batch).
    """

    @limits(loss_weight=AT_LEAST_0, reduction=one_of(("sum", "mean")))
    def __init__(self, loss_weight: float = 0.5, reduction: str = "sum"):
        super().__init__()
        self.loss_weight, self.reduction = loss_weight, reduction

    def forward(
        self,
        logits: Tensor,
        pairs: Sequence[tuple[Tensor, Tensor]],
        labelled: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Compare.

        Args:
            logits: `(B, T, N_class, h, w)`.
            pairs: a map `(B, T, h_i, w_i, C)` and the audio `(B, T, C)`, for each scale.
            labelled: `(B, T)` bool, the frames that count where the mean is taken over labelled frames; None: all. With
                `reduction: sum` all count.
            masks: `(B, T, H, W)`; not used.
        """
        several = logits.shape[2] > 1
        logits = logits.flatten(0, 1)
        masks = (logits.argmax(1, keepdim=True) != 0).float() if several else at_least_float32(logits)
        counts = masks.new_ones(len(masks)) if labelled is None else labelled.flatten().to(masks, non_blocking=True)
        total = masks.new_zeros(())
        for visual, audio in pairs:
            pooled = F.adaptive_avg_pool2d(masks, visual.shape[2:4]).movedim(1, -1)
            mask = pooled if several else pooled.sigmoid()
            cut = (at_least_float32(visual.flatten(0, 1)) * mask).mean((1, 2)).log_softmax(-1)
            sound = at_least_float32(audio.flatten(0, 1)).log_softmax(-1)
            frames = F.kl_div(cut, sound, reduction="none", log_target=True).sum(-1)
            if self.reduction == "sum":
                total = total + frames.sum() * get_world_size()  # DDP averages over the processes
            else:
                total = total + (frames * counts).sum() / batch_total(counts.sum(), frames)
        return self.loss_weight * total / max(1, len(pairs))
