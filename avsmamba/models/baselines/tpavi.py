"""TPAVI, AVSBench's own model (Zhou et al., Audio-Visual Segmentation, ECCV 2022), as parts of AVSSegmentor.

Projection: dilated convolutions. Pyramid: temporal pixel-wise audio-visual interaction at each scale, then a top-down
path of residual convolutions. Head: convolutions to full size. No encoder and no decoder; the head reads no query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import MAP_NUMBER, counts, limits
from avsmamba.models.baselines.classifier import UpsamplingClassifier
from avsmamba.models.head import HeadOutput
from avsmamba.models.projection import AUDIO_NORM, project_maps
from avsmamba.registry import MODELS


class DilatedConvs(nn.Module):
    """The sum of 3 x 3 convolutions at several dilations: atrous spatial pyramid pooling as DeepLabV2 adds it up."""

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(in_channels, out_channels, 3, padding=d, dilation=d) for d in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C_in, h, w)` to `(N, C, h, w)`."""
        y = self.convs[0](x)
        for conv in self.convs[1:]:
            y = y + conv(x)
        return y


@MODELS.register_module()
class TPAVIProjection(nn.Module):
    """Dilated convolutions for each map; the audio keeps its channels, since each scale has its own projection.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio features.
        embed_dims: C.
        dilations: of the summed 3 x 3 convolutions.
        audio_norm: 'BN' normalises the audio features over the batch, 'none' does not (as in `Projection`).
    """

    @limits(**counts("embed_dims", "dilations"), audio_norm=AUDIO_NORM)
    def __init__(
        self,
        in_channels: Sequence[int],
        audio_channels: int,
        embed_dims: int = 256,
        dilations: Sequence[int] = (3, 6, 12, 18),
        audio_norm: str = "none",
    ):
        super().__init__()
        self.visual = nn.ModuleList(DilatedConvs(c, embed_dims, dilations) for c in in_channels)
        self.audio_norm = nn.BatchNorm1d(audio_channels) if audio_norm == "BN" else nn.Identity()

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Project.

        Args:
            maps: `(B * T, C_i, h_i, w_i)` maps of the backbone.
            audio: `(B, T, C_a)`.

        Returns:
            `(B, T, h_i, w_i, C)` maps and `(B, T, C_a)` audio.
        """
        b, t = audio.shape[:2]
        return project_maps(self.visual, maps, b, t), self.audio_norm(audio.flatten(0, 1)).unflatten(0, (b, t))


class TPAVIBlock(nn.Module):
    """Temporal pixel-wise audio-visual interaction: a non-local block whose keys are the sound.

    Z = LayerNorm(V + mu(alpha g(V))), alpha = theta(V) phi(A)^T / N over all N = T h w pixels of the clip, A the audio
    of a second repeated over its pixels. There is no softmax, so the products associate: phi(A)^T g(V) first, once a
    clip and not once a pixel, which is linear in N. All pixels of a second share one key: their values are summed.

    mu ends in a batch normalisation whose weight starts at zero (the block starts as the identity), and a layer
    normalisation follows the sum, as in the authors' code (https://github.com/OpenNLPLab/AVSBench).

    Args:
        channels: C; the block works on C / 2.
        audio_channels: channels of the audio features.
    """

    def __init__(self, channels: int, audio_channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.audio = nn.Linear(audio_channels, channels)
        self.theta, self.phi, self.g = (nn.Linear(channels, inner) for _ in range(3))
        self.mu = nn.Linear(inner, channels)
        self.mu_norm = nn.BatchNorm1d(channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.zeros_(self.mu_norm.weight)

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Interact.

        Args:
            visual: `(B, T, h, w, C)`.
            audio: `(B, T, C_a)`.

        Returns:
            the map `(B, T, h, w, C)` and the audio `(B, T, C)` as the block projected it.
        """
        aligned = self.audio(audio)
        values = self.g(visual).mean((2, 3))
        context = torch.einsum("btk,btc->bkc", self.phi(aligned), values) / visual.shape[1]
        y = self.mu(rearrange(self.theta(visual), "b t h w k -> b (t h w) k") @ context)
        y = self.mu_norm(y.flatten(0, 1)).view_as(visual)
        return self.norm(visual + y), aligned


class ResidualConvUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), 3 x 3 (RefineNet)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, h, w)` to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionPath(nn.Module):
    """One stage of the decoder: add the scale's map through a residual unit, a second unit, upsample by two."""

    def __init__(self, channels: int, coarsest: bool):
        super().__init__()
        self.lateral = None if coarsest else ResidualConvUnit(channels)
        self.unit = ResidualConvUnit(channels)

    def forward(self, visual: Tensor, coarser: Tensor | None = None) -> Tensor:
        """Map `(N, C, h, w)` and the coarser stage's output, of the same shape, to `(N, C, 2 h, 2 w)`."""
        x = visual if self.lateral is None or coarser is None else coarser + self.lateral(visual)
        return F.interpolate(self.unit(x), scale_factor=2, mode="bilinear", align_corners=False)


class TPAVIFeatures(NamedTuple):
    """Mask features `(B, T, H / 2, W / 2, C)` and, for each scale, the map and the projected audio of its block."""

    mask_features: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]


@MODELS.register_module()
class TPAVIPyramid(nn.Module):
    """A TPAVI block at each of `stages`, then the decoder (after Panoptic FPN) from the coarsest scale upwards.

    Args:
        embed_dims: channels C.
        audio_channels: channels of the audio features, those of the encoder.
        stages: scales 1 to 4 with a TPAVI block; all four in the paper.
    """

    @limits(**counts("embed_dims", "audio_channels"), stages=MAP_NUMBER)
    def __init__(self, embed_dims: int = 256, audio_channels: int = 128, stages: Sequence[int] = (1, 2, 3, 4)):
        super().__init__()
        self.audio_channels = audio_channels
        self.interactions = nn.ModuleDict({str(s): TPAVIBlock(embed_dims, audio_channels) for s in stages})
        self.paths = nn.ModuleList(FusionPath(embed_dims, coarsest=i == 0) for i in range(4))

    def forward(self, maps: list[Tensor], audio: Tensor) -> TPAVIFeatures:
        """Compute the mask features.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first, each twice as large as the next.
            audio: `(B, T, C_a)`.

        Raises:
            ValueError: if the audio has other channels than `audio_channels`.
        """
        if audio.shape[-1] != self.audio_channels:
            raise ValueError(f"audio_channels: expected {self.audio_channels}, got audio of {audio.shape[-1]} channels")
        maps, pairs = list(maps), []
        for stage, block in self.interactions.items():
            visual, aligned = block(maps[int(stage) - 1], audio)
            maps[int(stage) - 1] = visual
            pairs.append((visual, aligned))
        finest_last = [rearrange(m, "b t h w c -> (b t) c h w") for m in reversed(maps)]
        y = self.paths[0](finest_last[0])
        for visual, path in zip(finest_last[1:], self.paths[1:], strict=True):
            y = path(visual, y)
        b, t = audio.shape[:2]
        return TPAVIFeatures(rearrange(y, "(b t) c h w -> b t h w c", b=b, t=t), tuple(pairs))


@MODELS.register_module()
class TPAVIHead(nn.Module):
    """Convolutions from the pyramid's features to logits at the size of the frames. There is no intermediate mask.

    Args:
        embed_dims: channels C.
        num_classes: N_class; 1 for S4 and MS3.
        hidden_dims: channels of the two convolutions, before and after the upsampling.
    """

    @limits(**counts("embed_dims", "num_classes", "hidden_dims"))
    def __init__(self, embed_dims: int = 256, num_classes: int = 1, hidden_dims: Sequence[int] = (128, 32)):
        super().__init__()
        self.classifier = UpsamplingClassifier(embed_dims, hidden_dims, num_classes, scale=2)

    def forward(self, query: Tensor, features: TPAVIFeatures) -> HeadOutput:
        """Predict from `features`; `query` is not read."""
        return HeadOutput(self.classifier(features.mask_features), pairs=features.pairs)
