"""After AQFormer (Huang et al., IJCAI 2023: audio-queried transformer): audio-bridged temporal interaction (ABTI).

The decoder, the head and the losses are Mask2Former's with queries of the sound: `MaskedAttentionDecoder`,
`QuerySetHead`, `SetLoss`. There is no public code, and the equations of the paper's module are not known to us: what is
open, and what we chose, is listed in docs/methods/aqformer.md.
"""

import torch
from torch import Tensor, nn

from avsmamba.limits import RATE, counts, limits, one_of
from avsmamba.models.layers.deformable import sine_positions
from avsmamba.models.layers.scales import flatten_frames, map_sizes, split_frames
from avsmamba.models.sets.masked_attention import Attention, MaskedAttentionLayer
from avsmamba.models.sets.pixel_decoder import DeformablePixelDecoder
from avsmamba.registry import MODELS

PLACES, CONTEXTS = one_of(("before", "after")), one_of(("clip", "frame"))


class ABTI(MaskedAttentionLayer):
    """Exchange between the frames of a clip through K tokens a frame, which start as the sound of its second.

    The tokens attend to the pixels of their frame, then to all T K tokens of the clip, and pass a feed-forward network;
    the pixels attend to the tokens. Each step has a residual and a layer normalisation after it.

    Keys and queries have positions: pixels a sine of their place, a vector of their map and a sine of their second
    (relative to the clip's length), tokens that of their second. Without the second, frames of the same picture could
    not tell their own sound from the others'.

    Args:
        channels: C, a multiple of 4.
        num_heads: attention heads.
        ffn_dims: hidden channels of the feed-forward network.
        dropout: drop rate of the residual branches and of the attention.
        num_tokens: K.
        context: 'clip' or 'frame', see `AQFormerPixelDecoder`.
        num_maps: maps.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        ffn_dims: int,
        dropout: float,
        num_tokens: int = 1,
        context: str = "clip",
        num_maps: int = 3,
    ):
        super().__init__(channels, num_heads, ffn_dims, dropout)
        self.context = context
        self.tokens = nn.Parameter(torch.randn(num_tokens, channels))
        self.levels = nn.Parameter(torch.randn(num_maps, channels))
        self.to_pixels = Attention(channels, num_heads, dropout)
        self.norm4 = nn.LayerNorm(channels)

    def forward(self, maps: list[Tensor], audio: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Map `(B, T, h_i, w_i, C)` maps and `(B, T, C)` audio to maps of the same shapes."""
        sizes, lead, channels = map_sizes(maps), audio.shape[:2], audio.shape[-1]
        pixels = flatten_frames(maps)
        places = [
            sine_positions((size,), channels, audio.device) + level
            for size, level in zip(sizes, self.levels, strict=True)
        ]
        seconds = sine_positions(((lead[1], 1),), channels, audio.device).unsqueeze(1).to(pixels.dtype)
        placed = pixels + torch.cat(places).to(pixels.dtype) + seconds

        tokens = (audio.unsqueeze(2) + self.tokens).flatten(0, 1)
        tokens = self.norm1(tokens + self.dropout(self.cross(tokens, placed.flatten(0, 1), pixels.flatten(0, 1))))
        tokens = tokens.unflatten(0, lead)
        clip, keys = tokens.flatten(1, 2), (tokens + seconds).flatten(1, 2)
        clip = self.norm2(clip + self.dropout(self.self_attention(keys, keys, clip)))
        tokens = self.norm3(clip + self.dropout(self.ffn(clip))).view_as(tokens)

        first = 1 if self.context == "clip" else 0  # of the two dimensions that are joined
        joined = (x.flatten(first, first + 1) for x in (placed, tokens + seconds, tokens))
        pixels = self.norm4(pixels + self.dropout(self.to_pixels(*joined).view_as(pixels)))
        return split_frames(pixels, sizes)


@MODELS.register_module()
class AQFormerPixelDecoder(DeformablePixelDecoder):
    """Mask2Former's pixel decoder with an ABTI over maps 2 to 4; an encoder of AVSSegmentor that reads the audio.

    The first map of the output are the mask features, so that `pyramid` is `null`.

    Args:
        embed_dims: channels C, a multiple of 4.
        num_layers: layers of deformable attention.
        num_heads: attention heads, of the ABTI too.
        num_points: samples a head and scale.
        ffn_dims: hidden channels of the feed-forward networks, of the ABTI too.
        dropout: drop rate of the residual branches.
        num_tokens: K, tokens a frame of the ABTI.
        context: the tokens that a pixel attends to: those of the 'clip', or of its 'frame', which have exchanged with
            the others. With K = 1 'frame' adds the same vector to all pixels of a frame.
        place: the ABTI is 'before' or 'after' the deformable layers.
    """

    reads_audio = True

    @limits(
        **counts("embed_dims", "num_layers", "num_heads", "num_points", "ffn_dims", "num_tokens"),
        dropout=RATE,
        context=CONTEXTS,
        place=PLACES,
    )
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        ffn_dims: int = 1024,
        dropout: float = 0.0,
        num_tokens: int = 1,
        context: str = "clip",
        place: str = "before",
    ):
        super().__init__(embed_dims, num_layers, num_heads, num_points, ffn_dims, dropout)
        self.place = place
        self.interaction = ABTI(embed_dims, num_heads, ffn_dims, dropout, num_tokens, context)

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:  # type: ignore[override]
        """Encode.

        Args:
            maps: four `(B, T, h_i, w_i, C)`, finest first.
            audio: `(B, T, C)`.

        Returns:
            mask features and three encoded maps, of the same shapes, and the audio as it is.
        """
        if self.place == "before":
            maps = [maps[0], *self.interaction(maps[1:], audio)]
        maps = self.encoder(maps)
        if self.place == "after":
            maps = [maps[0], *self.interaction(maps[1:], audio)]
        return self.with_mask_features(maps), audio
