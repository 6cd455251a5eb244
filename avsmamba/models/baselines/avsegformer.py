"""AVSegFormer (Gao et al., Audio-Visual Segmentation with Transformer, AAAI 2024) as parts of AVSSegmentor.

Encoder: deformable attention over three scales. Decoder: queries from the sound, then a transformer decoder. Pyramid:
mask features and the audio-visual mixer. Head: masks of all queries. Each frame is processed independently, with its
own second of sound. The projection is AVS-Mamba's (1 x 1 convolutions and group normalisation come from AVSegFormer).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, MAP_NUMBER, RATE, counts, limits
from avsmamba.models.baselines.classifier import UpsamplingClassifier
from avsmamba.models.head import HeadOutput
from avsmamba.models.layers.deformable_encoder import feed_forward, xavier
from avsmamba.models.layers.scales import flatten_frames
from avsmamba.registry import MODELS


class GeneratorLayer(nn.Module):
    """Query generator: self-attention among queries, attention to the sound, feed-forward network; norms after each.

    A frame has one audio token, and the softmax over one key is 1 whatever query and key are. So attention to the sound
    is its value and output projection; projections of queries and keys, which would never learn, are left out.
    """

    def __init__(self, channels: int, heads: int, ffn_dims: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, bias=False, batch_first=True)
        self.value = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.ffn = feed_forward(channels, ffn_dims, 0.0)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, query: Tensor, audio: Tensor) -> Tensor:
        """Map `(N, Q, C)` queries and `(N, 1, C)` audio to `(N, Q, C)`."""
        query = self.norm1(query + self.attention(query, query, query, need_weights=False)[0])
        query = self.norm2(query + self.output(self.value(audio)))
        return self.norm3(query + self.ffn(query))


@MODELS.register_module()
class AVSegFormerDecoder(nn.Module):
    """Queries of each frame: generated from its sound, plus learned ones, then a transformer decoder.

    Args:
        embed_dims: channels C.
        num_queries: queries a frame; 300 in the paper.
        num_layers: layers of the transformer decoder; six in the paper. 0: the queries are those of the generator.
        generator_layers: layers of the query generator; six in the authors' code.
        scales: maps 1 to 4 whose tokens the queries attend to.
        num_heads: attention heads.
        ffn_dims: hidden channels of the decoder's feed-forward networks.
        generator_ffn_dims: hidden channels of the generator's.
        dropout: drop rate of the decoder's residual branches and attention.
    """

    @limits(
        **counts("embed_dims", "num_queries", "generator_layers", "num_heads", "ffn_dims", "generator_ffn_dims"),
        num_layers=AT_LEAST_0,
        scales=MAP_NUMBER,
        dropout=RATE,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        num_queries: int = 300,
        num_layers: int = 6,
        generator_layers: int = 6,
        scales: Sequence[int] = (2, 3, 4),
        num_heads: int = 8,
        ffn_dims: int = 2048,
        generator_ffn_dims: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.scales = tuple(scales)
        self.initial = nn.Parameter(torch.empty(num_queries, embed_dims))
        self.learned = nn.Parameter(torch.empty(num_queries, embed_dims))
        self.generator = nn.ModuleList(
            GeneratorLayer(embed_dims, num_heads, generator_ffn_dims) for _ in range(generator_layers)
        )
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(embed_dims, num_heads, ffn_dims, dropout, "gelu", batch_first=True)
            for _ in range(num_layers)
        )
        xavier(self)

    def forward(self, maps: list[Tensor], audio: Tensor) -> list[Tensor]:
        """Compute the queries.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first, encoded.
            audio: `(B, T, C)`.

        Returns:
            `(B, T, Q, C)` of the last layer, alone in a list.
        """
        lead = audio.shape[:2]
        memory = flatten_frames([maps[s - 1] for s in self.scales]).flatten(0, 1)
        sound = audio.flatten(0, 1).unsqueeze(1)
        query = self.initial.expand(len(sound), -1, -1)
        for layer in self.generator:
            query = layer(query, sound)
        query = query + self.learned
        for layer in self.layers:
            query = layer(query, memory)
        return [query.unflatten(0, lead)]


@MODELS.register_module()
class AVSegFormerMixer(nn.Module):
    """Mask features (map 1 and the upsampled encoded map 2), whose channels are weighted by the sound.

    The mixer: the audio token attends to all pixels of its frame; the result, through a sigmoid, multiplies the
    channels.

    Args:
        embed_dims: channels C.
        num_heads: heads of the mixer's attention.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    @limits(**counts("embed_dims", "num_heads"))
    def __init__(self, embed_dims: int = 256, num_heads: int = 8):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide {embed_dims} channels")
        groups = max(1, embed_dims // 8)
        self.num_heads = num_heads
        self.lateral = nn.Sequential(nn.Conv2d(embed_dims, embed_dims, 1), nn.GroupNorm(groups, embed_dims))
        self.smooth = nn.Sequential(
            nn.Conv2d(embed_dims, embed_dims, 3, padding=1), nn.GroupNorm(groups, embed_dims), nn.ReLU()
        )
        self.query = nn.Linear(embed_dims, embed_dims, bias=False)
        self.key_value = nn.Linear(embed_dims, 2 * embed_dims, bias=False)
        self.output = nn.Linear(embed_dims, embed_dims)
        xavier(self)

    def forward(self, maps: list[Tensor], audio: Tensor) -> Tensor:
        """Compute the mask features.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first; the first two are read.
            audio: `(B, T, C)`.

        Returns:
            `(B, T, h_1, w_1, C)`.
        """
        fine, coarse = (rearrange(m, "b t h w c -> (b t) c h w") for m in maps[:2])
        up = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        features = self.smooth(self.lateral(fine) + up).permute(0, 2, 3, 1)
        gate = self.gate(features.flatten(1, 2), audio.flatten(0, 1))
        return (features * gate[:, None, None]).unflatten(0, audio.shape[:2])

    def gate(self, pixels: Tensor, audio: Tensor) -> Tensor:
        """Compute weights `(N, C)` in (0, 1) of the channels, from `(N, h w, C)` pixels and `(N, C)` audio."""
        query = rearrange(self.query(audio), "n (m c) -> n m 1 c", m=self.num_heads)
        key, value = rearrange(self.key_value(pixels), "n l (two m c) -> two n m l c", two=2, m=self.num_heads)
        gathered = F.scaled_dot_product_attention(query, key, value).flatten(1)
        return self.output(gathered).sigmoid()


@MODELS.register_module()
class AVSegFormerHead(nn.Module):
    """Masks of all queries, through an MLP over the queries back to C channels, plus the mask features, to logits.

    The intermediate mask is that of the mixing loss: one linear layer over the channels of the mixed features.

    Args:
        embed_dims: channels C.
        num_classes: N_class; 1 for S4 and MS3.
        num_queries: Q, as in the decoder.
        mlp_dims: hidden channels of the three-layer MLP.
        hidden_dims: channels of the two convolutions, before and after the upsampling.
        mixing_mask: return the intermediate mask; off where no auxiliary loss reads it.
    """

    @limits(**counts("embed_dims", "num_classes", "num_queries", "mlp_dims", "hidden_dims"))
    def __init__(
        self,
        embed_dims: int = 256,
        num_classes: int = 1,
        num_queries: int = 300,
        mlp_dims: int = 2048,
        hidden_dims: Sequence[int] = (128, 32),
        mixing_mask: bool = True,
    ):
        super().__init__()
        self.num_queries = num_queries
        self.mlp = nn.Sequential(
            nn.Linear(num_queries, mlp_dims),
            nn.ReLU(),
            nn.Linear(mlp_dims, mlp_dims),
            nn.ReLU(),
            nn.Linear(mlp_dims, embed_dims),
        )
        self.classifier = UpsamplingClassifier(embed_dims, hidden_dims, num_classes, scale=4, bias=False)
        self.mixing = nn.Linear(embed_dims, 1) if mixing_mask else None
        xavier(self)

    def forward(self, query: Tensor, mask_features: Tensor) -> HeadOutput:
        """Predict.

        Args:
            query: `(B, T, Q, C)`.
            mask_features: `(B, T, h, w, C)`, mixed.

        Raises:
            ValueError: if there are not Q queries.
        """
        return HeadOutput(self.logits(query, mask_features), self.intermediate_mask(mask_features))

    def logits(self, query: Tensor, mask_features: Tensor) -> Tensor:
        """Compute the logits `(B, T, N_class, H, W)`; arguments and errors as in `forward`."""
        if query.shape[2] != self.num_queries:
            raise ValueError(f"num_queries: the head has {self.num_queries}, the decoder {query.shape[2]}")
        masks = torch.einsum("btqc,bthwc->bthwq", query, mask_features)
        return self.classifier(mask_features + self.mlp(masks))

    def intermediate_mask(self, mask_features: Tensor) -> Tensor | None:
        """Compute the mask `(B, T, 1, h, w)` of the mixing loss, or None if no loss reads it."""
        return None if self.mixing is None else self.mixing(mask_features).movedim(-1, 2)
