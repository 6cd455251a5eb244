"""Projection of the backbone's four maps and of the audio features to C channels (Sec. IV-A)."""

from collections.abc import Iterable, Sequence

from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_1, limits, one_of
from avsmamba.registry import MODELS

AUDIO_NORM = one_of(("BN", "none"))


def project_maps(parts: Iterable[nn.Module], maps: Sequence[Tensor], b: int, t: int) -> list[Tensor]:
    """Apply one module to each `(B * T, C_i, h_i, w_i)` map; return `(B, T, h_i, w_i, C)` maps."""
    return [rearrange(p(m), "(b t) c h w -> b t h w c", b=b, t=t) for p, m in zip(parts, maps, strict=True)]


@MODELS.register_module()
class Projection(nn.Module):
    """A 1 x 1 convolution (and group normalisation) for each map, a linear layer for the audio.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio features.
        embed_dims: C.
        norm: of the maps, 'GN' (as AVSegFormer's projection) or 'none'.
        audio_norm: 'BN' normalises the audio features over the batch before the linear layer, 'none' does not. It
            removes the part that is common to all sounds: a small model from scratch learns to use the sound several
            times sooner (docs/paper_notes.md).
    """

    @limits(embed_dims=AT_LEAST_1, norm=one_of(("GN", "none")), audio_norm=AUDIO_NORM)
    def __init__(
        self,
        in_channels: Sequence[int],
        audio_channels: int,
        embed_dims: int = 256,
        norm: str = "GN",
        audio_norm: str = "none",
    ):
        super().__init__()

        def visual(channels: int) -> nn.Module:
            conv = nn.Conv2d(channels, embed_dims, 1)
            return conv if norm == "none" else nn.Sequential(conv, nn.GroupNorm(max(1, embed_dims // 8), embed_dims))

        self.visual = nn.ModuleList(visual(c) for c in in_channels)
        self.audio_norm = nn.BatchNorm1d(audio_channels) if audio_norm == "BN" else nn.Identity()
        self.audio = nn.Linear(audio_channels, embed_dims)

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Project.

        Args:
            maps: `(B * T, C_i, h_i, w_i)` maps of the backbone.
            audio: `(B, T, C_a)`.

        Returns:
            `(B, T, h_i, w_i, C)` maps and `(B, T, C)` audio.
        """
        b, t = audio.shape[:2]
        return project_maps(self.visual, maps, b, t), self.audio(
            self.audio_norm(audio.flatten(0, 1)).unflatten(0, (b, t))
        )
