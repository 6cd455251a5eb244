"""COMBO without maskiges (Yang et al., Cooperation Does Matter, CVPR 2024) as parts of AVSSegmentor.

Projection: that of AVS-Mamba for the maps; the audio keeps its channels. Encoder: Mask2Former's pixel decoder, then the
bilateral fusion of its mask features and the sound. Decoder: Mask2Former's, with the sound in the queries. The loss
compares the masks of neighbouring frames. Omitted: the Siam encoder, a second backbone that reads pictures of masks
computed beforehand (maskiges). What the public code (yannqi/COMBO-AVS) does by accident is an option.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, POSITIVE, RATE, counts, limits, one_of
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.models.layers.totals import at_least_float32, batch_total
from avsmamba.models.projection import AUDIO_NORM, Projection
from avsmamba.models.sets.masked_attention import MaskedAttentionDecoder, mlp
from avsmamba.models.sets.pixel_decoder import DeformablePixelDecoder
from avsmamba.models.sets.query_head import QuerySetHead
from avsmamba.registry import MODELS

AUDIO_PER_QUERY = one_of(("own_frame", "released"))


@MODELS.register_module()
class COMBOProjection(Projection):
    """A 1 x 1 convolution with group normalisation for each map; the audio keeps its channels.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels C_a of the audio features.
        embed_dims: C of the maps.
        audio_norm: 'BN' normalises the audio features over the batch, 'none' does not (as in `Projection`).
    """

    @limits(embed_dims=AT_LEAST_1, audio_norm=AUDIO_NORM)
    def __init__(
        self, in_channels: Sequence[int], audio_channels: int, embed_dims: int = 256, audio_norm: str = "none"
    ):
        super().__init__(in_channels, audio_channels, embed_dims, "GN", audio_norm)
        self.audio = nn.Identity()  # type: ignore[assignment]


class BilateralFusion(nn.Module):
    """Attention between the pixels of a frame and its one sound, in both directions, by the same scores.

    Both are normalised first, and the results are added to the normalised values, with a learned scale for each
    channel. The scores' softmax is over the pixels in both directions: over the sounds, of which there is one, every
    pixel would have the weight 1.

    Source: COMBO's bilateral fusion module, GLIP's block (Li et al., CVPR 2022) with another softmax.

    Args:
        channels: C of the pixels, and the sum of the heads' channels.
        audio_channels: C_a.
        num_heads: attention heads; they divide C.
        dropout: drop rate of the attention weights, drawn for each direction.
        layer_scale: both scales at the start.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    def __init__(self, channels: int, audio_channels: int, num_heads: int, dropout: float, layer_scale: float):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"fusion_heads: {num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.level = nn.Parameter(torch.randn(channels))
        self.audio_position = nn.Parameter(torch.randn(audio_channels))
        self.visual_norm, self.audio_norm = nn.LayerNorm(channels), nn.LayerNorm(audio_channels)
        self.query, self.visual_value = (nn.Linear(channels, channels) for _ in range(2))
        self.key, self.audio_value = (nn.Linear(audio_channels, channels) for _ in range(2))
        self.to_visual, self.to_audio = nn.Linear(channels, channels), nn.Linear(channels, audio_channels)
        for layer in (self.query, self.key, self.visual_value, self.audio_value, self.to_visual, self.to_audio):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(dropout)
        self.visual_scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.audio_scale = nn.Parameter(torch.full((audio_channels,), layer_scale))

    def forward(self, features: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse `(N, h, w, C)` features and `(N, C_a)` audio to the same shapes."""
        size = (features.shape[1], features.shape[2])
        pixels = self.visual_norm(features.flatten(1, 2) + self.level)
        sound = self.audio_norm(audio)
        places = sine_positions((size,), pixels.shape[-1], pixels.device).to(pixels.dtype)
        query, key = self.heads(self.query(pixels + places)), self.heads(self.key(sound + self.audio_position))
        scores = torch.einsum("nlmd,nmd->nlm", query, key) * query.shape[-1] ** -0.5
        weights = scores.softmax(1)
        seen = torch.einsum("nlm,nlmd->nmd", self.dropout(weights), self.heads(self.visual_value(pixels)))
        heard = torch.einsum("nlm,nmd->nlmd", self.dropout(weights), self.heads(self.audio_value(sound)))
        pixels = pixels + self.visual_scale * self.to_visual(heard.flatten(2))
        return pixels.unflatten(1, size), sound + self.audio_scale * self.to_audio(seen.flatten(1))

    def heads(self, x: Tensor) -> Tensor:
        """Split `(..., C)` into heads `(..., M, C / M)`."""
        return x.unflatten(-1, (self.num_heads, -1))


@MODELS.register_module()
class COMBOEncoder(nn.Module):
    """Mask2Former's pixel decoder, then the bilateral fusion of the mask features and the sound of each frame.

    Args:
        embed_dims: channels C, a multiple of 4.
        audio_channels: C_a of the audio features.
        num_layers: layers of deformable attention.
        num_heads: its heads.
        num_points: its samples a head and scale.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the pixel decoder.
        fusion_heads: attention heads of the fusion.
        fusion_dropout: drop rate of its attention weights.
        layer_scale: scale of its results at the start.
    """

    reads_audio = True

    @limits(
        **counts("embed_dims", "audio_channels", "num_layers", "num_heads", "num_points", "ffn_dims", "fusion_heads"),
        dropout=RATE,
        fusion_dropout=RATE,
        layer_scale=POSITIVE,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        audio_channels: int = 128,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dims: int = 1024,
        dropout: float = 0.0,
        fusion_heads: int = 8,
        fusion_dropout: float = 0.1,
        layer_scale: float = 1e-4,
    ):
        super().__init__()
        self.audio_channels = audio_channels
        self.pixel_decoder = DeformablePixelDecoder(embed_dims, num_layers, num_heads, num_points, ffn_dims, dropout)
        self.fusion = BilateralFusion(embed_dims, audio_channels, fusion_heads, fusion_dropout, layer_scale)

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode.

        Args:
            maps: four `(B, T, h_i, w_i, C)`, finest first.
            audio: `(B, T, C_a)`.

        Returns:
            Mask features and three encoded maps, and the audio, all of the same shapes.

        Raises:
            ValueError: if the audio does not have C_a channels.
        """
        if audio.shape[-1] != self.audio_channels:
            raise ValueError(f"audio_channels: the encoder has {self.audio_channels}, the audio {audio.shape[-1]}")
        features, *coarse = self.pixel_decoder(maps)
        fused, sound = self.fusion(features.flatten(0, 1), audio.flatten(0, 1))
        lead = audio.shape[:2]
        return [fused.unflatten(0, lead), *coarse], sound.unflatten(0, lead)


@MODELS.register_module()
class COMBODecoder(MaskedAttentionDecoder):
    """Mask2Former's decoder, whose queries are learned vectors plus an MLP of the fused sound.

    Args:
        embed_dims: channels C, a multiple of 4.
        audio_channels: C_a of the audio.
        num_queries: Q.
        num_layers: layers.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward networks.
        dropout: drop rate of the residual branches and of the attention.
        audio_dims: hidden widths of the MLP from the audio to C channels.
        audio_per_query: 'own_frame': all queries of a frame receive its sound. 'released': as in the public code, which
            reads repeated sounds in a wrong order: query q of frame n of all N frames of the call receives the sound of
            frame (q N + n) // Q, so that the result depends on the other clips of the batch.
    """

    @limits(
        **counts("embed_dims", "audio_channels", "num_queries", "num_layers", "num_heads", "ffn_dims", "audio_dims"),
        dropout=RATE,
        audio_per_query=AUDIO_PER_QUERY,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        audio_channels: int = 128,
        num_queries: int = 100,
        num_layers: int = 9,
        num_heads: int = 8,
        ffn_dims: int = 2048,
        dropout: float = 0.0,
        audio_dims: Sequence[int] = (4096, 4096),
        audio_per_query: str = "own_frame",
    ):
        super().__init__(
            embed_dims,
            num_queries,
            num_layers,
            num_heads=num_heads,
            ffn_dims=ffn_dims,
            dropout=dropout,
            audio="none",
        )
        self.audio = mlp(audio_channels, *audio_dims, embed_dims)
        self.audio_per_query = audio_per_query

    def initial_queries(self, audio: Tensor) -> Tensor:
        """Make queries `(N, Q, C)` of `(N, C_a)` audio."""
        frames, queries = len(audio), len(self.positions)
        sound = self.audio(audio).unsqueeze(1).expand(-1, queries, -1)  # type: ignore[misc]
        if self.audio_per_query == "released":
            sound = sound.reshape(queries, frames, -1).transpose(0, 1)
        return self.content + sound


@MODELS.register_module()
class COMBOHead(QuerySetHead):
    """Mask2Former's head; for S4 and MS3 it can predict the background too, as the public code does.

    Args:
        embed_dims: channels C of the queries.
        num_classes: N_class; 1 for S4 and MS3.
        background_class: for one class: queries have two classes, background (label 0) and foreground (label 1), each
            with a target where it is present. A pixel's logit is the difference of both scores, whose sigmoid is the
            foreground's softmax. False: the foreground is the only class.
        upsample: as in `QuerySetHead`.
        logit_gradient: as in `QuerySetHead`.

    Raises:
        ValueError: if `background_class` is set with several classes, which include the background.
    """

    @limits(**counts("embed_dims", "num_classes", "upsample"))
    def __init__(
        self,
        embed_dims: int = 256,
        num_classes: int = 1,
        background_class: bool = False,
        upsample: int = 4,
        logit_gradient: bool = False,
    ):
        if background_class and num_classes > 1:
            raise ValueError(f"background_class: is for one class, got num_classes {num_classes}")
        classes = 2 if background_class else num_classes
        super().__init__(embed_dims, classes, upsample=upsample, logit_gradient=logit_gradient)
        self.background_class = background_class

    def logits(self, classes: Tensor, masks: Tensor) -> Tensor:
        """Return logits `(B, T, N_class, h, w)`; arguments as in `QuerySetHead.logits`."""
        logits = super().logits(classes, masks)
        if not self.background_class:
            return logits
        background, foreground = logits.exp().split(1, 2)  # the scores
        return foreground - background


@MODELS.register_module()
class InterFrameLoss(nn.Module):
    """COMBO's adaptive inter-frame consistency loss: d exp(-d), d one minus the cosine between neighbouring frames.

    A frame is the vector of all its mask logits, of every query. The mean is over the pairs of neighbours of all clips,
    labelled or not; every layer but the last has its own. d exp(-d) is greatest at d = 1: frames that are more
    different than that are driven apart. Padded frames, whose logits are 0, are in no pair.

    Args:
        loss_weight: factor of each layer's mean.
        group: frames of a clip are compared within groups of this number alone; None: within the clip. The public
            code's is 5, which matters where clips are longer (AVSS).
    """

    @limits(loss_weight=AT_LEAST_0, group=AT_LEAST_1)
    def __init__(self, loss_weight: float = 10.0, group: int | None = None):
        super().__init__()
        self.loss_weight, self.group = loss_weight, group

    def forward(self, layers: Sequence[tuple[Tensor, Tensor]], *labels: object) -> list[dict[str, Tensor]]:
        """Compute `loss_inter_frame` of each layer but the last, which has none.

        Args:
            layers: class logits, not used, and mask logits `(B, T, Q, h, w)` of each layer.
            labels: the other arguments of a set loss; not used, since the loss needs no labels.

        Raises:
            ValueError: if there is one layer alone.
        """
        if len(layers) < 2:
            raise ValueError("deep_supervision: InterFrameLoss needs the layers before the last one, got one layer")
        return [{"loss_inter_frame": self.loss_weight * self.difference(m)} for _, m in layers[:-1]] + [{}]

    def difference(self, masks: Tensor) -> Tensor:
        """Return the mean of d exp(-d) over the pairs in mask logits `(B, T, Q, h, w)`; 0 without any pair."""
        frames = at_least_float32(masks.flatten(2))
        squares = frames.square().sum(-1)
        lengths = squares.clamp(min=1e-12).sqrt()
        d = 1 - (frames[:, :-1] * frames[:, 1:]).sum(-1) / (lengths[:, :-1] * lengths[:, 1:])
        pairs = (squares[:, :-1] > 0) & (squares[:, 1:] > 0)
        if self.group is not None:
            pairs = pairs & (torch.arange(1, frames.shape[1], device=pairs.device) % self.group != 0)
        return (d * (-d).exp() * pairs).sum() / batch_total(pairs.sum(), d)
