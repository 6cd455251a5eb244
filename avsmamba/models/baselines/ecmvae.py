"""ECMVAE (Mao et al., Multimodal Variational Auto-encoder based Audio-Visual Segmentation, ICCV 2023).

Three latents a frame, of what only the picture, only the sound, and both have, join the coarsest map. In training a
posterior, whose encoders see the mask, has a pass of its own beside the prior's; a test runs the prior alone.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, counts, limits, one_of
from avsmamba.models.baselines.ecmvae_losses import AUDIO, SHARED, VISUAL, Gaussian, Latents, single
from avsmamba.models.baselines.tpavi import TPAVIBlock, TPAVIFeatures
from avsmamba.models.batch import at, by_length, existing_places, labelled_indices, padded_masks
from avsmamba.models.head import HeadOutput
from avsmamba.models.layers.refinenet import RefineNetDecoder
from avsmamba.models.noise import clip_noise, mean_prediction
from avsmamba.models.segmentor import AVSSegmentor
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample

Config = dict[str, Any]


class LatentEncoder(nn.Module):
    """A normal distribution from a picture, a sound, or both.

    Args:
        dims: d.
        size: height and width of the picture (pixels), a multiple of 2 ** (number of widths).
        picture_channels: of the picture; 0: none is read.
        widths: channels of the convolutions.
        audio_channels: of the sound; 0: none is read.
        picture_dims: numbers to which the picture is reduced where a sound joins it.
    """

    def __init__(
        self,
        dims: int,
        size: int,
        picture_channels: int,
        widths: Sequence[int],
        audio_channels: int,
        picture_dims: int,
    ):
        super().__init__()
        self.picture = None
        features = 0
        if picture_channels:
            layers: list[nn.Module] = []
            for i, o in zip((picture_channels, *widths), widths, strict=False):
                layers += [nn.Conv2d(i, o, 4, stride=2, padding=1), nn.BatchNorm2d(o), nn.LeakyReLU(0.01)]
            features = widths[-1] * (size >> len(widths)) ** 2
            self.picture = nn.Sequential(*layers, nn.Flatten())
            if audio_channels:
                self.picture.append(nn.Linear(features, picture_dims))
                features = picture_dims
        self.gaussian = nn.Linear(features + audio_channels, 2 * dims)

    def forward(self, picture: Tensor, audio: Tensor | None) -> Tensor:
        """Map `(N, channels, size, size)` and `(N, C_a)` or None to means and log variances `(N, 2, d)`."""
        read = [] if self.picture is None else [self.picture(picture)]
        return single(self.gaussian(torch.cat(read if audio is None else [*read, audio], 1))).unflatten(1, (2, -1))


@MODELS.register_module()
class ECMVAELatents(nn.Module):
    """Encoders of the latents z_v, z_a and z_c of d numbers, and what joins them to the coarsest map.

    z_v is read from the frame, z_a from the sound, z_c from both. In the posterior (`sees_masks`) the mask is a fourth
    channel of the frame, and z_a is read from sound and mask. s_v = Linear(z_v, z_c) and s_a = Linear(z_a, z_c) are
    repeated over the coarsest map and concatenated with it; a 1 x 1 convolution gives C channels.

    Args:
        embed_dims: channels C of the map.
        audio_channels: channels of the audio features.
        dims: d.
        size: height and width to which frames and masks are resized for the encoders, pixels; the authors' frames
            have 224.
        visual_widths: channels of the convolutions that read the frame for z_v; each halves height and width.
        shared_widths: channels of those for z_c, and for the posterior's z_a.
        picture_dims: numbers that remain of frame or mask where the sound joins them.
        sees_masks: build the posterior's encoders; `ECMVAESegmentor` sets it.

    Raises:
        ValueError: if `size` is no multiple of 2 to the number of widths.
    """

    @limits(
        **counts("embed_dims", "audio_channels", "dims", "size", "visual_widths", "shared_widths", "picture_dims"),
    )
    def __init__(
        self,
        embed_dims: int = 128,
        audio_channels: int = 128,
        dims: int = 16,
        size: int = 224,
        visual_widths: Sequence[int] = (16, 32, 64, 128, 128),
        shared_widths: Sequence[int] = (16, 32, 64, 64, 64),
        picture_dims: int = 32,
        sees_masks: bool = False,
    ):
        super().__init__()
        factor = 2 ** max(len(visual_widths), len(shared_widths))
        if not visual_widths or not shared_widths or size % factor:
            raise ValueError(f"size: expected a multiple of {factor} for one convolution or more, got {size}")
        self.dims, self.size, self.sees_masks = dims, size, sees_masks
        mask = int(sees_masks)

        def encoder(picture_channels: int, widths: Sequence[int], audio_channels: int) -> LatentEncoder:
            return LatentEncoder(dims, size, picture_channels, widths, audio_channels, picture_dims)

        self.visual = encoder(3 + mask, visual_widths, 0)
        self.audio = encoder(mask, shared_widths, audio_channels)
        self.shared = encoder(3 + mask, shared_widths, audio_channels)
        self.join_visual, self.join_audio = nn.Linear(2 * dims, dims), nn.Linear(2 * dims, dims)
        self.fuse = nn.Linear(embed_dims + 2 * dims, embed_dims)

    def forward(self, frames: Tensor, audio: Tensor, masks: Tensor | None = None) -> Gaussian:
        """Compute the distributions of z_v, z_a and z_c.

        Args:
            frames: `(N, 3, H, W)` normalised.
            audio: `(N, C_a)`.
            masks: `(N, 1, H, W)`, 1 where an object sounds; of the posterior.

        Returns:
            mean and log variance, `(N, 3, d)`.
        """
        picture = frames if masks is None else torch.cat([frames, masks.to(frames)], 1)
        # Also at the same size, where it changes no value: a comparison would fix the frames' size in torch.export.
        picture = F.interpolate(picture, (self.size, self.size), mode="bilinear", align_corners=False)
        found = [self.visual(picture, None), self.audio(picture[:, 3:], audio), self.shared(picture, audio)]
        return Gaussian(*torch.stack(found, 1).unbind(2))

    def join(self, z: Tensor) -> Tensor:
        """Map latents `(N, 3, d)` to s_v and s_a, `(N, 2, d)`."""
        visual, audio = (torch.cat([z[:, i], z[:, SHARED]], 1) for i in (VISUAL, AUDIO))
        return torch.stack([self.join_visual(visual), self.join_audio(audio)], 1)

    def fused(self, maps: Sequence[Tensor], joined: Tensor) -> list[Tensor]:
        """Return four maps `(B, T, h_i, w_i, C)` with s_v and s_a `(N, 2, d)` of the N = B * T frames in the last."""
        coarsest = maps[-1]
        shape = coarsest.shape[:-1]
        repeated = joined.flatten(1).unflatten(0, shape[:2])[:, :, None, None].expand(*shape, -1)
        return [*maps[:-1], self.fuse(torch.cat([coarsest, repeated.to(coarsest.dtype)], -1))]


@MODELS.register_module()
class ECMVAEPyramid(nn.Module):
    """A TPAVI block at each scale, then RefineNet's top-down path.

    Args:
        embed_dims: channels C.
        audio_channels: channels of the audio features, those of the encoder.
    """

    @limits(**counts("embed_dims", "audio_channels"))
    def __init__(self, embed_dims: int = 128, audio_channels: int = 128):
        super().__init__()
        self.interactions = nn.ModuleList(TPAVIBlock(embed_dims, audio_channels) for _ in range(4))
        self.decoder = RefineNetDecoder(embed_dims)

    def forward(self, maps: Sequence[Tensor], audio: Tensor, decoder: nn.Module | None = None) -> TPAVIFeatures:
        """Compute the mask features, two times as large as the finest map.

        Args:
            maps: four `(B, T, h_i, w_i, C)` maps, finest first, each twice as large as the next.
            audio: `(B, T, C_a)`.
            decoder: instead of the pyramid's own, for the posterior.
        """
        pairs = tuple(block(x, audio) for block, x in zip(self.interactions, maps, strict=True))
        return TPAVIFeatures((decoder or self.decoder)([x for x, _ in pairs]), pairs)


@MODELS.register_module()
class ECMVAESegmentor(AVSSegmentor):
    """ECMVAE: an AVSSegmentor whose training has a second pass, the posterior's.

    Backbone, audio encoder and TPAVI are common to both passes; neck, latents, decoder and head have a copy each. The
    posterior's latents are those of the labelled frames; in its pass the others have the prior's. Its losses are named
    `posterior_loss_...`.

    Args:
        backbone: frames `(N, 3, H, W)` to four maps.
        audio_encoder: log-mel `(B, T, 1, 96, 64)` to `(B, T, C_a)`.
        projection: maps to C channels; the audio keeps its channels.
        latents: config of the latents (`ECMVAELatents`), of which prior and posterior are built.
        pyramid: maps and audio to mask features (`ECMVAEPyramid`).
        head: mask features to logits.
        losses: on the logits of both passes.
        latent_loss: on the latents (`ECMVAELoss`).
        matching_losses: on the logits and the pairs of maps and audio of both passes; none by default.
        prior_weight: factor of the losses on the prior's masks.
        posterior_weight: factor of those on the posterior's masks.
        latent: predict with the 'mean' of the prior, which is deterministic, or with a 'sample' of it, as the authors
            test.
        seed: of the samples.
        num_samples: samples whose predictions are averaged, as probabilities.
        embed_dims: C.
        data_preprocessor: config of the data preprocessor.
    """

    @limits(
        **counts("embed_dims", "num_samples"),
        prior_weight=AT_LEAST_0,
        posterior_weight=AT_LEAST_0,
        seed=AT_LEAST_0,
        latent=one_of(("mean", "sample")),
    )
    def __init__(
        self,
        backbone: Config,
        audio_encoder: Config,
        projection: Config,
        latents: Config,
        pyramid: Config,
        head: Config,
        losses: Sequence[Config],
        latent_loss: Config,
        matching_losses: Sequence[Config] | None = None,
        prior_weight: float = 1.0,
        posterior_weight: float = 1.0,
        latent: str = "mean",
        seed: int = 0,
        num_samples: int = 1,
        embed_dims: int = 128,
        data_preprocessor: Config | None = None,
    ):
        super().__init__(
            backbone,
            audio_encoder,
            projection,
            head,
            losses,
            pyramid=pyramid,
            matching_losses=matching_losses,
            embed_dims=embed_dims,
            data_preprocessor=data_preprocessor,
        )
        self.prior_weight, self.posterior_weight = prior_weight, posterior_weight
        self.latent, self.seed, self.num_samples = latent, seed, num_samples
        known = {"embed_dims": embed_dims, "audio_channels": self.audio_encoder.out_channels}
        self.latents = MODELS.build(latents, default_args=known)
        self.latent_loss = MODELS.build(latent_loss, default_args={"dims": self.latents.dims})
        self.posterior = nn.ModuleDict(
            {
                "projection": copy.deepcopy(self.projection),
                "latents": MODELS.build({**latents, "sees_masks": True}, default_args=known),
                "decoder": copy.deepcopy(cast(ECMVAEPyramid, self.pyramid).decoder),
                "head": copy.deepcopy(self.head),
            }
        )

    def features(self, frames: Tensor, log_mel: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute maps `(B, T, h_i, w_i, C)`, the coarsest with the means of the prior's latents, and audio."""
        maps, audio = super().features(frames, log_mel)
        prior = self.latents(frames.flatten(0, 1), audio.flatten(0, 1))
        return self.latents.fused(maps, self.latents.join(prior.mean)), audio

    def prior_pass(self, maps: list[Tensor], audio: Tensor) -> list[HeadOutput]:
        """Compute the head's output from maps with the prior's latents."""
        return [self.head(*self.neck(maps, audio))]

    def posterior_pass(self, maps: list[Tensor], audio: Tensor) -> list[HeadOutput]:
        """Compute the output of the posterior's head from maps with the posterior's latents."""
        features = cast(ECMVAEPyramid, self.pyramid)(maps, audio, self.posterior["decoder"])
        return [self.posterior["head"](audio.unsqueeze(2), features)]

    def prediction(
        self,
        frames: Tensor,
        log_mel: Tensor,
        counts: Sequence[int] | None,
        data_samples: list[AVSDataSample] | None,
    ) -> Tensor:
        """Compute the logits `(B, T, 1, h, w)`, by `latent` from the prior's means or from samples."""
        if self.latent == "mean":
            return super().prediction(frames, log_mel, counts, data_samples)
        batch, num_frames = frames.shape[:2]
        counts = counts or [num_frames] * batch
        frames, log_mel = existing(frames, log_mel, counts)
        maps, audio = super().features(frames, log_mel)
        prior = self.latents(frames[0], audio[0])
        names = [sample.get("clip") for sample in data_samples or [AVSDataSample()] * batch]
        noise = clip_noise(self.seed, names, counts, (self.num_samples, *prior.mean.shape[1:])).to(prior.mean.device)
        found = []
        for part in noise.unbind(1):
            fused = self.latents.fused(maps, self.latents.join(prior.sample(part)))
            found += by_length(self.prior_pass, fused, audio, counts, num_frames)
        return mean_prediction([output.logits for output in found])

    def training_losses(
        self,
        frames: Tensor,
        log_mel: Tensor,
        counts: Sequence[int] | None,
        data_samples: list[AVSDataSample] | None,
    ) -> dict[str, Tensor]:
        """Run prior and posterior on samples of their latents, and compute the losses of both and of the latents.

        If no frame of the batch is labelled, the posterior has no pass.

        Raises:
            ValueError: if there are no samples.
        """
        if not data_samples:
            raise ValueError("data_samples: required by mode 'loss'")
        (batch, num_frames), size = frames.shape[:2], frames.shape[-2:]
        counts = counts or [num_frames] * batch
        frames, log_mel = existing(frames, log_mel, counts)
        stages, sound = self.backbone(frames[0]), self.audio_encoder(log_mel)

        maps, audio = self.projection(stages, sound)
        prior = drawn(self.latents, self.latents(frames[0], audio[0]))
        run = (counts, num_frames)
        outputs = by_length(self.prior_pass, self.latents.fused(maps, prior.joined), audio, *run)
        losses = {k: self.prior_weight * v for k, v in self.loss(outputs, size, data_samples).items()}

        flags = [labelled_indices(s) for s in data_samples]
        pairs = [(b, t) for b, count in enumerate(counts) for t in range(count)]
        labelled = torch.tensor([i for i, (b, t) in enumerate(pairs) if t in flags[b]])
        if not len(labelled):
            # Without a gradient for every parameter, training in several processes fails.
            unread = (*self.posterior.parameters(), *self.latent_loss.parameters())
            return losses | {"loss_kl": 0 * torch.stack([p.sum() for p in unread]).sum()}
        latents = self.posterior["latents"]
        maps, audio = self.posterior["projection"](stages, sound)
        places = torch.tensor([b * num_frames + t for b, t in pairs if t in flags[b]])
        masks = at(places, padded_masks([s.gt_masks for s in data_samples], size).flatten(0, 1)) != 0
        posterior = drawn(latents, latents(*(at(labelled, x) for x in (frames[0], audio[0])), masks.unsqueeze(1)))
        index = labelled.to(prior.samples.device, non_blocking=True)
        samples = prior.samples.index_copy(0, index, posterior.samples)
        outputs = by_length(self.posterior_pass, latents.fused(maps, latents.join(samples)), audio, *run)
        for name, value in self.loss(outputs, size, data_samples).items():
            losses["posterior_" + name] = self.posterior_weight * value
        return losses | self.latent_loss(prior, posterior, labelled)


def existing(frames: Tensor, log_mel: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the N frames that exist and their log-mel as one clip, `(1, N, ...)`."""
    places = existing_places(counts, frames.shape[1])
    return at(places, frames.flatten(0, 1)).unsqueeze(0), at(places, log_mel.flatten(0, 1)).unsqueeze(0)


def drawn(latents: nn.Module, distribution: Gaussian) -> Latents:
    """Draw a sample of each latent, from torch's generator, and join them."""
    samples = distribution.sample(torch.randn_like(distribution.mean))
    return Latents(distribution, samples, cast(ECMVAELatents, latents).join(samples))
