"""SelM's decoder, head and the loss of its hit maps (Li et al., ACM MM 2024); the other parts are in `selm`."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, RATE, counts, limits
from avsmamba.models.baselines.selm import group_norm
from avsmamba.models.head import HeadOutput
from avsmamba.registry import MODELS

NUM_TOKENS = 2  # background, then what sounds


class SelMQueries(NamedTuple):
    """Output of the decoder.

    Attributes:
        token: `(B, T, C)`, of what sounds.
        pixels: `(B, T, C, h, w)`, at the size of the finest map.
        pairs: the hit map `(B, T, h_i, w_i, 1)` of each level, coarsest first, with the audio `(B, T, C)`: 1 where the
            token of what sounds takes the pixel, else 0; gradients are those of the softmax.
    """

    token: Tensor
    pixels: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]


def conv_block(in_channels: int, channels: int, bias: bool) -> nn.Sequential:
    """Build a 3 x 3 convolution, group normalisation and ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias), group_norm(channels), nn.ReLU())


def mlp(channels: int, dropout: float) -> nn.Sequential:
    """Build two linear layers with 2 C hidden channels and GELU."""
    return nn.Sequential(
        nn.Linear(channels, 2 * channels),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(2 * channels, channels),
        nn.Dropout(dropout),
    )


class Loading(nn.Module):
    """Adds the sound to the token of what sounds; then an MLP without a residual over all tokens.

    The public code's attention of one token to one sound has the weight 1: its query and key never learn and are
    omitted, as are a norm and an MLP that it does not run. Dropout of that weight drops the whole sound of a frame.
    """

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.norm_audio, self.norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.value, self.output = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.mlp = mlp(channels, 0.0)

    def forward(self, tokens: Tensor, audio: Tensor) -> Tensor:
        """Map `(N, K, C)` tokens, the last that of what sounds, and `(N, C)` audio to tokens."""
        weight = self.dropout(torch.ones_like(audio[:, :1]))
        sound = self.dropout(self.output(weight * self.value(self.norm_audio(audio))))
        others, sounding = tokens.split([tokens.shape[1] - 1, 1], 1)
        return self.mlp(self.norm(torch.cat([others, sounding + sound.unsqueeze(1)], 1)))


class Grouping(nn.Module):
    """Every pixel is assigned to one token, and each token is updated from its pixels.

    The logit of a pixel and a token is their cosine after linear layers; in training Gumbel noise is added. The
    assignment is one-hot, with the gradient of the logits' softmax (straight-through). A token becomes
    MLP(LN(token + Linear(sum of its pixels' values / (their number + 1)))). The temperature of the softmax is 1, as in
    the public code, whose parameter for it starts where it has no gradient.

    Args:
        channels: C.
        dropout: drop rate.
        test_seed: of the noise in testing; None: no noise.
    """

    def __init__(self, channels: int, dropout: float, test_seed: int | None):
        super().__init__()
        self.test_seed = test_seed
        self.norm_pixels, self.norm_tokens, self.norm = (nn.LayerNorm(channels) for _ in range(3))
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        self.mlp = mlp(channels, dropout)

    def forward(self, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, K, C)` tokens and `(N, L, C)` pixels to tokens and the assignment `(N, K, L)`."""
        pixels = self.norm_pixels(pixels)
        query, key = F.normalize(self.query(self.norm_tokens(tokens)), dim=-1), F.normalize(self.key(pixels), dim=-1)
        assigned = self.assign(query @ key.transpose(1, 2))
        share = assigned / (assigned.sum(-1, keepdim=True) + 1)
        found = self.output(share.to(pixels.dtype) @ self.value(pixels))
        return self.mlp(self.norm(self.dropout(found) + tokens)), assigned

    def assign(self, logits: Tensor) -> Tensor:
        """Return the one-hot assignment over K of logits `(N, K, L)`, of float32 or float64."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.training or self.test_seed is not None:
            seeded = None if self.training else torch.Generator(logits.device).manual_seed(self.test_seed or 0)
            logits = logits - torch.empty_like(logits).exponential_(generator=seeded).log()
        soft = logits.softmax(1)
        hard = torch.zeros_like(soft).scatter(1, soft.argmax(1, keepdim=True), 1.0)
        return hard - soft.detach() + soft


class Level(nn.Module):
    """One scale of the decoder: joins the finer map, loads the sound, groups the pixels.

    Args:
        channels: C.
        side: of the learned positions.
        dropout: drop rate of the loading.
        grouping: the grouping of this level.
    """

    def __init__(self, channels: int, side: int, dropout: float, grouping: Grouping):
        super().__init__()
        self.fuse = nn.Sequential(
            conv_block(2 * channels, channels, bias=True), conv_block(channels, channels, bias=True)
        )
        self.positions = nn.Parameter(torch.randn(1, channels, side, side) / channels**0.5)
        self.load, self.group = Loading(channels, dropout), grouping

    def forward(self, coarse: Tensor, fine: Tensor, tokens: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run.

        Args:
            coarse: `(N, C, h', w')`.
            fine: `(N, C, h, w)`.
            tokens: `(N, K, C)`.
            audio: `(N, C)`.

        Returns:
            pixels `(N, C, h, w)`, tokens, and the assignment `(N, K, h, w)`.
        """
        size = fine.shape[-2:]
        coarse = F.interpolate(coarse, size, mode="bilinear", align_corners=True)
        pixels = self.fuse(torch.cat([coarse, fine], 1))
        positions = F.interpolate(self.positions, size, mode="bilinear", align_corners=False)
        placed = (pixels + positions).flatten(2).transpose(1, 2)
        tokens, assigned = self.group(self.load(tokens, audio), placed)
        return pixels, tokens, assigned.unflatten(-1, size)


@MODELS.register_module()
class SelMDecoder(nn.Module):
    """Two learned tokens, background and what sounds, share the pixels of each scale out among themselves.

    From coarse to fine, three times: the pixels so far and the next map through two 3 x 3 convolutions; the sound is
    added to its token; every pixel is assigned to one token, which is updated from its pixels. Each frame is decoded
    alone.

    Args:
        embed_dims: channels C.
        sides: height and width of the learned positions of the three levels, coarsest first: those of maps 3, 2 and 1
            (28, 56, 112 for frames of 448 pixels). They are resized for maps of other sizes.
        dropout: drop rate of the sound, and of the tokens' updates at the first two levels.
        test_seed: seed of Gumbel noise in testing, as in the public code, which draws it without a seed. Logits of the
            two tokens differ by 2 at most, so at least 12 % of the pixels go to the token with the smaller one. The
            noise of a frame depends on the frames that it is batched with. None: no noise.

    Raises:
        ValueError: if there are not three sides.
    """

    @limits(**counts("embed_dims", "sides"), dropout=RATE, test_seed=AT_LEAST_0)
    def __init__(
        self,
        embed_dims: int = 256,
        sides: Sequence[int] = (28, 56, 112),
        dropout: float = 0.1,
        test_seed: int | None = None,
    ):
        super().__init__()
        if len(sides) != 3:
            raise ValueError(f"sides: expected one for each of three levels, got {list(sides)}")
        self.tokens = nn.Parameter(nn.init.trunc_normal_(torch.empty(NUM_TOKENS, embed_dims), std=0.02))
        self.levels = nn.ModuleList()
        for i, side in enumerate(sides):
            seed = None if test_seed is None else test_seed + i
            grouping = Grouping(embed_dims, 0.0 if i == 2 else dropout, seed)
            self.levels.append(Level(embed_dims, side, dropout, grouping))

    def forward(self, maps: list[Tensor], audio: Tensor) -> list[SelMQueries]:
        """Decode four `(B, T, h_i, w_i, C)` maps, finest first, and `(B, T, C)` audio, for `SelMHead`."""
        lead, sound = audio.shape[:2], audio.flatten(0, 1)
        *finer, pixels = (m.flatten(0, 1).permute(0, 3, 1, 2) for m in maps)
        tokens = self.tokens.expand(sound.shape[0], -1, -1)
        pairs = []
        for level, fine in zip(self.levels, reversed(finer), strict=True):
            pixels, tokens, assigned = level(pixels, fine, tokens, sound)
            pairs.append((assigned[:, -1, :, :, None].unflatten(0, lead), audio))
        return [SelMQueries(tokens[:, -1].unflatten(0, lead), pixels.unflatten(0, lead), tuple(pairs))]


@MODELS.register_module()
class SelMHead(nn.Module):
    """Enlarged pixels times a kernel from the token of what sounds.

    The pixels are enlarged and go through a 3 x 3 convolution, `upsamplings` times, and a 1 x 1 convolution, which is
    applied to the kernels instead: the same numbers, at a cost that does not depend on the size.

    Args:
        embed_dims: channels C.
        num_classes: N_class. With 1 the token gives a kernel and a bias, with more a kernel for each class.
        upsamplings: by 2, from the size of the finest map; SelM's logits have 224 pixels a side, so 1 for frames of 448
            pixels and 2 for 224.
    """

    @limits(**counts("embed_dims", "num_classes"), upsamplings=AT_LEAST_0)
    def __init__(self, embed_dims: int = 256, num_classes: int = 1, upsamplings: int = 2):
        super().__init__()
        self.num_classes = num_classes
        self.convs = nn.ModuleList(conv_block(embed_dims, embed_dims, bias=False) for _ in range(upsamplings))
        self.last = nn.Linear(embed_dims, embed_dims)
        self.kernels = nn.Linear(embed_dims, embed_dims + 1 if num_classes == 1 else num_classes * embed_dims)

    def forward(self, query: SelMQueries, mask_features: Tensor) -> HeadOutput:
        """Predict logits `(B, T, N_class, h, w)` and return the hit maps in `pairs`; `mask_features` is not read."""
        x, lead = query.pixels.flatten(0, 1), query.token.shape[:2]
        for conv in self.convs:
            x = conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        kernels = self.kernels(query.token.flatten(0, 1))
        bias: Tensor | float = 0.0
        if self.num_classes == 1:
            kernels, bias = kernels.split([x.shape[1], 1], -1)
        kernels = kernels.unflatten(-1, (self.num_classes, -1))
        bias = bias + kernels @ self.last.bias
        logits = (kernels @ self.last.weight @ x.flatten(2)).unflatten(-1, x.shape[-2:]) + bias[:, :, None, None]
        return HeadOutput(logits.unflatten(0, lead), pairs=query.pairs)


@MODELS.register_module()
class HitMapLoss(nn.Module):
    """Dice of the hit maps, enlarged to the frames by the nearest value, against what sounds in labelled frames.

    1 - 2 sum(p g) / (sum(p^2) + sum(g^2) + smooth) for each labelled frame, averaged, then weighted and added over the
    levels. Gradients pass through the one-hot assignment to its softmax.

    Args:
        weights: of the levels, coarsest first.
        smooth: added to the denominator.
        sigmoid: apply a sigmoid to the hit maps before, as the public code does although they are 0 and 1: the loss of
            a perfect map is then above 0.
    """

    @limits(weights=AT_LEAST_0, smooth=AT_LEAST_0)
    def __init__(self, weights: Sequence[float] = (0.001, 0.01, 0.1), smooth: float = 0.002, sigmoid: bool = False):
        super().__init__()
        self.weights, self.smooth, self.sigmoid = tuple(weights), smooth, sigmoid

    def forward(
        self, logits: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], labelled: Tensor | None, masks: Tensor
    ) -> Tensor:
        """Compare.

        Args:
            logits: `(B, T, N_class, h, w)`; not used.
            pairs: hit maps `(B, T, h_i, w_i, 1)`, each with the audio, which is not used.
            labelled: `(B, T)` bool, the frames that count; None: all.
            masks: `(B, T, H, W)`, 0 where nothing sounds.

        Raises:
            ValueError: if there is not one weight for each hit map.
        """
        if len(pairs) != len(self.weights):
            raise ValueError(f"weights: expected one for each of {len(pairs)} hit maps, got {list(self.weights)}")
        truth = (masks.flatten(0, 1) > 0).to(pairs[0][0].dtype).flatten(1)
        flags = truth.new_ones(len(truth)) if labelled is None else labelled.flatten().to(truth, non_blocking=True)
        total = truth.new_zeros(())
        for weight, (hits, _) in zip(self.weights, pairs, strict=True):
            p = F.interpolate(hits.flatten(0, 1).permute(0, 3, 1, 2), masks.shape[-2:], mode="nearest").flatten(1)
            p = p.sigmoid() if self.sigmoid else p
            sizes = p.square().sum(1) + truth.square().sum(1)
            dice = 1 - 2 * (p * truth).sum(1) / (sizes + self.smooth)
            total = total + weight * (dice * flags).sum() / flags.sum().clamp(min=1)
        return total
