"""After AVSAC (Bootstrapping Audio-Visual Segmentation by Strengthening Audio Cues, TCSVT 2024), over AVSegFormer.

Encoder, query generator and mixer are AVSegFormer's. The bidirectional decoder reads the mixer's mask features, which
only the head receives, so it is a part of the head. There is no public code: what the paper leaves open is listed in
docs/model/baselines.md.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, RATE, counts, limits, one_of
from avsmamba.models.baselines.avsegformer import AVSegFormerHead
from avsmamba.models.head import HeadOutput
from avsmamba.models.layers.deformable_encoder import feed_forward, xavier
from avsmamba.models.layers.totals import at_least_float32, batch_total
from avsmamba.registry import MODELS

DIRECTIONS = ("both", "audio_to_visual", "visual_to_audio")


class TowerLayer(nn.Module):
    """Attention to the other tower and a feed-forward network, each with a residual and a layer normalisation after it.

    There is no self-attention: the paper reports better scores without.
    """

    def __init__(self, channels: int, heads: int, ffn_dims: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.ffn = feed_forward(channels, ffn_dims, dropout)

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Map `(N, L, C)` tokens and `(N, M, C)` of the other tower to `(N, L, C)`."""
        gathered = self.attention(tokens, other, other, need_weights=False)[0]
        tokens = self.norm1(tokens + self.dropout(gathered))
        return self.norm2(tokens + self.ffn(tokens))


class BidirectionalDecoder(nn.Module):
    """Two towers of equal depth; in every layer each attends to the state of the other before that layer.

    Args:
        channels: C.
        num_layers: layers of each tower.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches and attention.
        direction: 'both'; with 'audio_to_visual' the queries, with 'visual_to_audio' the pixels pass unchanged.
    """

    def __init__(self, channels: int, num_layers: int, num_heads: int, ffn_dims: int, dropout: float, direction: str):
        super().__init__()

        def tower(left_out: str) -> nn.ModuleList:
            count = 0 if direction == left_out else num_layers
            return nn.ModuleList(TowerLayer(channels, num_heads, ffn_dims, dropout) for _ in range(count))

        self.visual, self.audio = tower("visual_to_audio"), tower("audio_to_visual")
        xavier(self)

    def forward(self, pixels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, L, C)` pixels and `(N, Q, C)` queries to the same shapes: F_AGV and F_VGA."""
        for visual, audio in zip_longest(self.visual, self.audio):
            pixels, query = (
                pixels if visual is None else visual(pixels, query),
                query if audio is None else audio(query, pixels),
            )
        return pixels, query


@MODELS.register_module()
class AVSACHead(AVSegFormerHead):
    """AVSegFormer's head over both outputs of a bidirectional decoder: `Linear(F_AGV + MLP(F_AGV . F_VGA))`.

    The pixels are the mask features, the queries those of `AVSegFormerDecoder` without transformer layers
    (`num_layers: 0`). The intermediate mask is that of the mixer. `AVFSLoss` compares F_AGV with the queries' mean.

    Args:
        embed_dims: channels C.
        num_classes: N_class; 1 for S4 and MS3.
        num_queries: Q, as in the decoder.
        mlp_dims: hidden channels of the three-layer MLP.
        hidden_dims: channels of the two convolutions, before and after the upsampling.
        mixing_mask: return the intermediate mask; off where no auxiliary loss reads it.
        num_layers: layers of each tower; six is a guess, by analogy with AVSegFormer.
        num_heads: attention heads of the towers.
        ffn_dims: hidden channels of the towers' feed-forward networks; a guess from the published number of parameters.
        dropout: drop rate of the towers' residual branches and attention.
        direction: which tower attends to the other: 'both', 'audio_to_visual' (the queries pass unchanged) or
            'visual_to_audio' (the mask features pass unchanged).
    """

    @limits(
        **counts("embed_dims", "num_classes", "num_queries", "mlp_dims", "hidden_dims"),
        **counts("num_layers", "num_heads", "ffn_dims"),
        dropout=RATE,
        direction=one_of(DIRECTIONS),
    )
    def __init__(
        self,
        embed_dims: int = 256,
        num_classes: int = 1,
        num_queries: int = 300,
        mlp_dims: int = 2048,
        hidden_dims: Sequence[int] = (128, 32),
        mixing_mask: bool = True,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_dims: int = 512,
        dropout: float = 0.1,
        direction: str = "both",
    ):
        super().__init__(embed_dims, num_classes, num_queries, mlp_dims, hidden_dims, mixing_mask)
        self.decoder = BidirectionalDecoder(embed_dims, num_layers, num_heads, ffn_dims, dropout, direction)

    def forward(self, query: Tensor, mask_features: Tensor) -> HeadOutput:
        """Predict.

        Args:
            query: `(B, T, Q, C)`.
            mask_features: `(B, T, h, w, C)`, mixed.

        Raises:
            ValueError: if there are not Q queries.
        """
        lead, (height, width) = query.shape[:2], mask_features.shape[2:4]
        pixels, decoded = self.decoder(mask_features.flatten(0, 1).flatten(1, 2), query.flatten(0, 1))
        visual = pixels.unflatten(1, (height, width)).unflatten(0, lead)
        logits = self.logits(decoded.unflatten(0, lead), visual)
        return HeadOutput(logits, self.intermediate_mask(mask_features), ((visual, query.mean(2)),))


@MODELS.register_module()
class AVFSLoss(nn.Module):
    """Kullback-Leibler divergence between each pixel of a map and the sound of its frame (AVSAC's L_AVFS).

    KL(softmax(F_AGV) || softmax(F_a)) over the channels, F_a repeated over the pixels; the mean over pixels and
    labelled frames, then over the scales.

    Args:
        loss_weight: the paper's is not known to us; 0.1 is a guess, by analogy with AVSegFormer's loss of the mixer.
    """

    @limits(loss_weight=AT_LEAST_0)
    def __init__(self, loss_weight: float = 0.1):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        logits: Tensor,
        pairs: Sequence[tuple[Tensor, Tensor]],
        labelled: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Compare.

        Args:
            logits: `(B, T, N_class, h, w)`; not used.
            pairs: a map `(B, T, h_i, w_i, C)` and the audio `(B, T, C)`, for each scale.
            labelled: `(B, T)` bool, the frames that count; None: all.
            masks: `(B, T, H, W)`; not used.
        """
        total = at_least_float32(logits.new_zeros(()))
        for visual, audio in pairs:
            sound = at_least_float32(audio[:, :, None, None]).log_softmax(-1).expand_as(visual)
            frames = F.kl_div(sound, at_least_float32(visual).log_softmax(-1), reduction="none", log_target=True)
            frames = frames.sum(-1).mean((2, 3))
            flags = frames.new_ones(frames.shape) if labelled is None else labelled.to(frames, non_blocking=True)
            total = total + (frames * flags).sum() / batch_total(flags.sum(), frames)
        return self.loss_weight * total / max(1, len(pairs))
