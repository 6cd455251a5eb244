"""Projection of the backbone's four maps and of the audio features to C channels (Sec. IV-A)."""

from collections.abc import Sequence

from torch import Tensor, nn

from avsmamba.registry import MODELS

NORMS = ("GN", "none")


@MODELS.register_module()
class Projection(nn.Module):
    """A 1 x 1 convolution (and group normalisation) for each map, a linear layer for the audio.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio features.
        embed_dims: C.
        norm: 'GN' (as AVSegFormer's projection) or 'none'.

    Raises:
        ValueError: if `norm` is unknown.
    """

    def __init__(self, in_channels: Sequence[int], audio_channels: int, embed_dims: int = 256, norm: str = "GN"):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm: expected one of {NORMS}, got {norm!r}")

        def visual(channels: int) -> nn.Module:
            conv = nn.Conv2d(channels, embed_dims, 1)
            return conv if norm == "none" else nn.Sequential(conv, nn.GroupNorm(max(1, embed_dims // 8), embed_dims))

        self.visual = nn.ModuleList(visual(c) for c in in_channels)
        self.audio = nn.Linear(audio_channels, embed_dims)

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Project.

        Args:
            maps: `(B * T, C_i, h_i, w_i)` maps of the backbone.
            audio: `(B, T, C_a)`.

        Returns:
            `(B, T, h_i, w_i, C)` maps and `(B, T, C)` audio.
        """
        lead = audio.shape[:2]
        projected = [p(m).permute(0, 2, 3, 1).unflatten(0, lead) for p, m in zip(self.visual, maps, strict=True)]
        return projected, self.audio(audio)
