"""AVSBiGen (Hao et al., AAAI 2024: bidirectional generation) as parts of AVSSegmentor.

Projection: `BasicNeckProjection`. Encoder: audio-visual correlation, then implicit motion, at each scale. Pyramid:
RefineNet's decoder. The head is `TPAVIHead`. `GenerationLoss` is the visual-to-audio branch, which only trains.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, ODD, counts, limits, one_of
from avsmamba.models.baselines.tpavi import TPAVIFeatures
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.refinenet import RefineNetDecoder
from avsmamba.models.layers.totals import at_least_float32, batch_total
from avsmamba.registry import MODELS

MASKS = ("ground_truth", "logits", "probability")


class Correlation(nn.Module):
    """Mark where a map agrees with the sound of its frame: v + v * sigmoid(convs(v * a)), both of unit length.

    Args:
        channels: C, of map and sound.
        hidden_dims: channels of the convolutions.
        kernel_size: of the second convolution.
    """

    def __init__(self, channels: int, hidden_dims: int, kernel_size: int):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, hidden_dims, 1),
            nn.Conv2d(hidden_dims, hidden_dims, kernel_size, padding=kernel_size // 2),
            nn.Conv2d(hidden_dims, 1, 1),
        )

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Map `(B, T, h, w, C)` with audio `(B, T, C)` to the same shape."""
        visual, audio = F.normalize(visual, dim=-1), F.normalize(audio, dim=-1)
        product = rearrange(visual * audio[:, :, None, None], "b t h w c -> (b t) c h w")
        gate = self.convs(product).sigmoid()
        return visual + visual * rearrange(gate, "(b t) 1 h w -> b t h w 1", t=visual.shape[1])


class ImplicitMotion(nn.Module):
    """Weight each pixel by its mean agreement with the next frame: F + F * sigmoid(linear(mean_j max(0, F_i . F'_j))).

    The last frame is compared with the one before it, and the only frame of a clip with itself: it counts as a clip in
    which nothing moves.

    Args:
        grad_checkpointing: keep only the maps and recompute the products in the backward pass.
    """

    def __init__(self, grad_checkpointing: bool):
        super().__init__()
        self.grad_checkpointing = grad_checkpointing
        self.gate = nn.Linear(1, 1)

    def forward(self, visual: Tensor) -> Tensor:
        """Map `(B, T, h, w, C)` to the same shape."""
        pixels = visual.flatten(2, 3)
        last = pixels.shape[1] - 1
        # All pairs of pixels of two frames take h^2 w^2 numbers: one frame of each clip at a time.
        means = [
            maybe_checkpoint(
                agreement,
                pixels[:, t],
                pixels[:, t + 1 if t < last else max(t - 1, 0)],
                recompute=self.grad_checkpointing,
            )
            for t in range(last + 1)
        ]
        gate = self.gate(torch.stack(means, 1).unsqueeze(-1)).sigmoid()
        return visual + visual * gate.view(*visual.shape[:4], 1)


def agreement(pixels: Tensor, others: Tensor) -> Tensor:
    """Return the mean over M of the products of `(B, L, C)` and `(B, M, C)`, negative ones as 0: `(B, L)`."""
    return (pixels @ others.mT).clamp(min=0).mean(-1)


@MODELS.register_module()
class AVSBiGenEncoder(nn.Module):
    """Correlation with the sound and implicit motion at each scale; the sound passes unchanged.

    Args:
        embed_dims: C, of the maps and of the sound, which has no projection.
        hidden_dims: channels of the convolutions of the correlation.
        kernel_size: of the second of them.
        motion: whether there is implicit motion.
        grad_checkpointing: keep only the inputs of the motion's products and recompute them in the backward pass.
    """

    reads_audio = True

    @limits(**counts("embed_dims", "hidden_dims"), kernel_size=ODD)
    def __init__(
        self,
        embed_dims: int = 128,
        hidden_dims: int = 32,
        kernel_size: int = 7,
        motion: bool = True,
        grad_checkpointing: bool = False,
    ):
        super().__init__()
        self.embed_dims = embed_dims
        self.correlations = nn.ModuleList(Correlation(embed_dims, hidden_dims, kernel_size) for _ in range(4))
        self.motions = nn.ModuleList(ImplicitMotion(grad_checkpointing) if motion else nn.Identity() for _ in range(4))

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Map four `(B, T, h_i, w_i, C)` maps and audio `(B, T, C)` to the same shapes.

        Raises:
            ValueError: if the audio has other channels than the maps.
        """
        if audio.shape[-1] != self.embed_dims:
            raise ValueError(
                f"embed_dims: the maps are multiplied by the sound, which has {audio.shape[-1]} channels; "
                f"got {self.embed_dims}"
            )
        parts = zip(self.correlations, self.motions, maps, strict=True)
        return [motion(correlation(visual, audio)) for correlation, motion, visual in parts], audio


@MODELS.register_module()
class AVSBiGenPyramid(nn.Module):
    """RefineNet's top-down path; the pairs for the matching losses are the encoder's maps, each with the sound.

    Args:
        embed_dims: C.
    """

    @limits(**counts("embed_dims"))
    def __init__(self, embed_dims: int = 128):
        super().__init__()
        self.decoder = RefineNetDecoder(embed_dims)

    def forward(self, maps: list[Tensor], audio: Tensor) -> TPAVIFeatures:
        """Compute mask features from four `(B, T, h_i, w_i, C)` maps, finest first, each twice as large as the next."""
        return TPAVIFeatures(self.decoder(maps), tuple((visual, audio) for visual in maps))


@MODELS.register_module()
class GenerationLoss(nn.Module):
    """Distance between the sound and one that is generated from the masked part of the deepest map (V2A generation).

    The map times the mask, shrunk to the map's size, goes through three convolutions, and a linear layer joins all
    positions: C_a numbers a frame. The loss is the mean over frames of their L2 distance to the sound, both of unit
    length. The sound has no gradient here. Frames whose sound is all zero, as that of padding, have no direction and do
    not count.

    Its parameters train with the model and are in its checkpoints; in a test they are idle.

    Args:
        embed_dims: C, channels of the map.
        audio_channels: C_a, of the sound.
        hidden_dims: channels of the convolutions.
        grid: height and width of the map in frames of the training's size (224: 7); others are pooled to it.
        mask: 'ground_truth' (the authors' MS3; labelled frames count), 'logits' (their S4: predicted logits as they
            are, so that the map changes its sign in the background; all frames count) or 'probability' (the logits'
            sigmoid; all frames count).
        loss_weight: factor of the mean.
    """

    @limits(**counts("embed_dims", "audio_channels", "hidden_dims", "grid"), mask=one_of(MASKS), loss_weight=AT_LEAST_0)
    def __init__(
        self,
        embed_dims: int = 128,
        audio_channels: int = 128,
        hidden_dims: int = 64,
        grid: int = 7,
        mask: str = "ground_truth",
        loss_weight: float = 1.0,
    ):
        super().__init__()
        self.grid, self.mask, self.loss_weight = grid, mask, loss_weight
        self.convs = nn.Sequential(
            nn.Conv2d(embed_dims, hidden_dims, 1),
            nn.Conv2d(hidden_dims, hidden_dims, 3, padding=1),
            nn.Conv2d(hidden_dims, audio_channels, 1),
        )
        self.join = nn.Linear(grid * grid, 1)

    def forward(
        self,
        logits: Tensor,
        pairs: Sequence[tuple[Tensor, Tensor]],
        labelled: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Generate and compare.

        Args:
            logits: `(B, T, 1, h, w)`.
            pairs: a map `(B, T, h_i, w_i, C)` and the audio `(B, T, C_a)` for each scale; the last is read.
            labelled: `(B, T)` bool, the frames with a true mask; None: all.
            masks: `(B, T, H, W)`, foreground is not 0; needed by 'ground_truth'.

        Raises:
            ValueError: if the mask that is asked for cannot be formed.
        """
        visual, audio = (at_least_float32(x.flatten(0, 1)) for x in pairs[-1])
        weights = F.adaptive_avg_pool2d(self.weights(logits, masks), visual.shape[1:3])
        cut = visual.movedim(-1, 1) * weights
        if tuple(cut.shape[2:]) != (self.grid, self.grid):
            cut = F.adaptive_avg_pool2d(cut, self.grid)
        generated = at_least_float32(self.join(self.convs(cut).flatten(2)).squeeze(-1))
        audio = audio.detach()
        distances = torch.linalg.vector_norm(F.normalize(generated, dim=-1) - F.normalize(audio, dim=-1), dim=-1)
        count = (audio != 0).any(-1)
        if self.mask == "ground_truth" and labelled is not None:
            count = count & labelled.flatten().to(count.device, non_blocking=True)
        return self.loss_weight * (distances * count).sum() / batch_total(count.sum(), distances)

    def weights(self, logits: Tensor, masks: Tensor | None) -> Tensor:
        """Return the masks `(B * T, 1, h, w)` that the map is multiplied by."""
        if self.mask == "ground_truth":
            if masks is None:
                raise ValueError("mask: 'ground_truth' needs masks")
            return (masks.flatten(0, 1).unsqueeze(1) > 0).float()
        if logits.shape[2] != 1:
            raise ValueError(f"mask: {self.mask!r} is for one class, got {logits.shape[2]}")
        predicted = at_least_float32(logits.flatten(0, 1))
        return predicted if self.mask == "logits" else predicted.sigmoid()
