"""The whole model (Fig. 2): backbone -> projection -> encoder -> decoder and pyramid -> head, from registered parts."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_1, limits, one_of
from avsmamba.models.batch import (
    at,
    by_length,
    check_inputs,
    each,
    existing_frames,
    existing_places,
    labelled_indices,
    padded_masks,
    resize,
)
from avsmamba.models.head import HeadOutput
from avsmamba.models.layers.totals import batch_total
from avsmamba.models.losses import labelled_frames
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample, CachedFrames, weights_digest

Config = dict[str, Any]


@MODELS.register_module()
class AVSSegmentor(BaseModel):
    """Segment what sounds: frames and audio to masks.

    `loss`: extract -> head -> resize to the frames' size -> losses on labelled frames.
    `predict`: extract -> head -> resize to the frames' size -> cut the padding -> resize to the labels' size.
    Clips may have padding frames at their end, see `padded_frames`.

    Args:
        backbone: frames `(N, 3, H, W)` to four maps; has `out_channels`.
        audio_encoder: log-mel `(B, T, 1, 96, 64)` to `(B, T, C_a)`; has `out_channels`.
        projection: maps and audio to C channels.
        head: query and mask features to logits, and to the inputs of the auxiliary and matching losses.
        losses: on the logits.
        encoder: maps to maps, or None: unchanged. One whose attribute `reads_audio` is true maps (maps, audio) to both.
        decoder: maps and audio to a list of queries `(B, T, Q, C)` (or what else the head reads), one for each layer,
            of which the last predicts; or None: the audio is the query.
        pyramid: maps and audio to mask features, or None: the finest map.
        aux_losses: on the intermediate mask; none by default.
        matching_losses: on the logits, the pairs of maps and audio of the head, the flags `(B, T)` of the labelled
            frames and the masks `(B, T, H, W)`; none by default.
        set_losses: on the sets of classes and masks of every supervised layer, with the labels; none by default.
        stage_fusion: acts between the stages of the backbone (a `StageFusion`), or None.
        embed_dims: C, passed to every part of the neck and to the head.
        deep_supervision: compute the losses for the queries of every decoder layer, not only the last; those of layer
            i, except the last, are named `d{i}.loss_...`.
        padded_frames: 'skip' (padding does not enter the model: it affects neither other frames nor the statistics of
            a batch normalisation, and costs nothing) or 'zeros' (the authors' code: the backbone's maps and the log-mel
            of padded frames are zero, and all frames run through the neck; a released AVSS checkpoint switches it on).
        data_preprocessor: config of the data preprocessor.

    Raises:
        ValueError: if there is a `stage_fusion`, and the backbone has no stages to act between, or `padded_frames` is
            'zeros'.
    """

    @limits(embed_dims=AT_LEAST_1, padded_frames=one_of(("skip", "zeros")))
    def __init__(
        self,
        backbone: Config,
        audio_encoder: Config,
        projection: Config,
        head: Config,
        losses: Sequence[Config],
        encoder: Config | None = None,
        decoder: Config | None = None,
        pyramid: Config | None = None,
        aux_losses: Sequence[Config] | None = None,
        matching_losses: Sequence[Config] | None = None,
        set_losses: Sequence[Config] | None = None,
        stage_fusion: Config | None = None,
        embed_dims: int = 256,
        deep_supervision: bool = True,
        padded_frames: str = "skip",
        data_preprocessor: Config | None = None,
    ):
        # Built here: without a default scope mmengine looks the name up in its root registry.
        super().__init__(data_preprocessor=MODELS.build(data_preprocessor or {"type": "AVSDataPreprocessor"}))
        self.deep_supervision, self.padded_frames = deep_supervision, padded_frames
        dims = {"embed_dims": embed_dims}

        def part(config: Config, **known: Any) -> nn.Module:
            return MODELS.build(config, default_args=dims | known)

        def optional(config: Config | None, **known: Any) -> nn.Module | None:
            return None if config is None else part(config, **known)

        self.backbone = MODELS.build(backbone)
        self.cached_backbone = ""  # digest of the backbone, once it was compared with that of stored features
        self.audio_encoder = MODELS.build(audio_encoder)
        channels = {"in_channels": self.backbone.out_channels, "audio_channels": self.audio_encoder.out_channels}
        self.stage_fusion = optional(stage_fusion, **channels)
        if self.stage_fusion is not None:
            if not getattr(self.backbone, "has_stages", False):
                raise ValueError(f"stage_fusion: {type(self.backbone).__name__} has no stages to act between")
            if padded_frames == "zeros":
                raise ValueError("padded_frames: expected 'skip' with a stage_fusion, got 'zeros'")
            channels["audio_channels"] = self.stage_fusion.out_channels
        self.projection = part(projection, **channels)
        self.encoder, self.decoder, self.pyramid = optional(encoder), optional(decoder), optional(pyramid)
        self.head = part(head)
        self.losses = nn.ModuleList(MODELS.build(c) for c in losses)
        self.aux_losses = nn.ModuleList(MODELS.build(c) for c in aux_losses or ())
        self.matching_losses = nn.ModuleList(MODELS.build(c) for c in matching_losses or ())
        self.set_losses = nn.ModuleList(MODELS.build(c) for c in set_losses or ())

    def extract(self, frames: Tensor, log_mel: Tensor) -> tuple[list[Any], Tensor]:
        """Run everything before the head, for clips without padding.

        Args:
            frames: `(B, T, 3, H, W)` normalised.
            log_mel: `(B, T, 1, 96, 64)`.

        Returns:
            queries `(B, T, Q, C)` of every decoder layer and mask features `(B, T, h, w, C)`, or another input of the
            head.
        """
        return self.neck(*self.features(frames, log_mel))

    def features(self, frames: Tensor | CachedFrames, log_mel: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute projected maps `(B, T, h_i, w_i, C)` and audio `(B, T, C)`, each frame and second independently."""
        audio = self.audio_encoder(log_mel)
        if self.stage_fusion is None:
            return self.projection(self.backbone_maps(frames.flatten(0, 1)), audio)
        if isinstance(frames, CachedFrames):
            raise ValueError("stage_fusion: acts within the backbone, so that features of it cannot replace it")
        return self.projection(*self.stage_fusion(self.backbone, frames.flatten(0, 1), audio))

    def backbone_maps(self, frames: Tensor | CachedFrames) -> list[Tensor]:
        """Run the backbone on frames `(N, 3, H, W)`, or return the maps that `avsmamba shards --features` stored.

        Raises:
            ValueError: if the backbone of stored maps is trained here, or has other weights.
        """
        if not isinstance(frames, CachedFrames):
            return self.backbone(frames)
        if self.backbone.training or any(p.requires_grad for p in self.backbone.parameters()):
            raise ValueError("backbone: expected frozen: true, since stored features replace it in training")
        if self.cached_backbone != frames.backbone:
            if (own := weights_digest(self.backbone)) != frames.backbone:
                raise ValueError(
                    f"backbone: its weights (SHA-256 {own[:12]}) are not those of the stored features "
                    f"({frames.backbone[:12]}): run avsmamba shards --features with this model's weights"
                )
            self.cached_backbone = frames.backbone
        return frames.maps

    def neck(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Any], Tensor]:
        """Compute queries and mask features from projected maps and audio; here a clip's frames are combined."""
        if self.encoder is not None:
            if getattr(self.encoder, "reads_audio", False):
                maps, audio = self.encoder(maps, audio)
            else:
                maps = self.encoder(maps)
        queries = [audio.unsqueeze(2)] if self.decoder is None else self.decoder(maps, audio)
        return queries, maps[0] if self.pyramid is None else self.pyramid(maps, audio)

    def run_head(self, queries: list[Any], mask_features: Tensor, every_layer: bool) -> list[HeadOutput]:
        """Run the head on the last layer's queries, or on those of every layer in one batch."""
        if not every_layer or len(queries) == 1:
            return [self.head(queries[-1], mask_features)]
        if not isinstance(queries[0], Tensor):
            return [self.head(q, mask_features) for q in queries]
        count = len(queries)
        output = self.head(torch.cat(queries), mask_features.repeat(count, *[1] * (mask_features.ndim - 1)))
        return [HeadOutput(*each(lambda t, i=i: t[0].chunk(count)[i], [output])) for i in range(count)]  # type: ignore[misc]

    def masks(self, frames: Tensor, log_mel: Tensor, counts: Sequence[int] | None = None) -> HeadOutput:
        """Compute the head's output for the last decoder layer; arguments as in `layer_outputs`."""
        return self.layer_outputs(frames, log_mel, counts, every_layer=False)[-1]

    def layer_outputs(
        self, frames: Tensor, log_mel: Tensor, counts: Sequence[int] | None, every_layer: bool
    ) -> list[HeadOutput]:
        """Compute the head's outputs for the decoder layers, with zeros in padded frames.

        Args:
            frames: `(B, T, 3, H, W)` normalised.
            log_mel: `(B, T, 1, 96, 64)`.
            counts: frames of each clip that are no padding; None: all.
            every_layer: for every layer, not only the last.
        """
        if counts is None or min(counts) == frames.shape[1]:
            return self.run_head(*self.extract(frames, log_mel), every_layer)
        run = self.skip_padding if self.padded_frames == "skip" else self.zero_padding
        return run(frames, log_mel, counts, every_layer)

    def skip_padding(
        self, frames: Tensor, log_mel: Tensor, counts: Sequence[int], every_layer: bool
    ) -> list[HeadOutput]:
        """Run the model without the padding: the neck runs once for each number of frames in the batch."""
        num_frames = frames.shape[1]
        place = existing_places(counts, num_frames)
        maps, audio = self.features(*(at(place, x.flatten(0, 1)).unsqueeze(0) for x in (frames, log_mel)))

        def run(maps: list[Tensor], audio: Tensor) -> list[HeadOutput]:
            return self.run_head(*self.neck(maps, audio), every_layer)

        return by_length(run, maps, audio, counts, num_frames)

    def zero_padding(
        self, frames: Tensor, log_mel: Tensor, counts: Sequence[int], every_layer: bool
    ) -> list[HeadOutput]:
        """Run the model on all frames; the backbone's maps, the log-mel and the logits of padded ones are zero."""
        batch, num_frames = frames.shape[:2]
        place = existing_places(counts, num_frames)
        exists = torch.tensor([[t < count for t in range(num_frames)] for count in counts]).to(frames.device)

        def spread(x: Tensor) -> Tensor:
            zeros = x.new_zeros(batch * num_frames, *x.shape[1:])
            return zeros.index_copy(0, place.to(x.device), x)

        def only_existing(values: Sequence[Tensor]) -> Tensor:
            return torch.where(exists.view(batch, num_frames, *[1] * (values[0].ndim - 2)), values[0], 0)

        maps = [spread(m) for m in self.backbone_maps(at(place, frames.flatten(0, 1)))]
        audio = self.audio_encoder(only_existing([log_mel]))
        outputs = self.run_head(*self.neck(*self.projection(maps, audio)), every_layer)
        return [HeadOutput(*each(only_existing, [output])) for output in outputs]

    def forward(
        self,
        frames: Tensor,
        log_mel: Tensor,
        data_samples: list[AVSDataSample] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[AVSDataSample]:
        """Run.

        Args:
            frames: `(B, T, 3, H, W)` normalised, H and W multiples of 32.
            log_mel: `(B, T, 1, 96, 64)`.
            data_samples: B samples; required by 'loss', which reads their masks and flags. In every mode their
                `vid_temporal_mask_flag` marks the frames that exist.
            mode: 'tensor' returns logits `(B, T, N_class, h, w)` at the head's size, 'loss' a dict of losses, 'predict'
                the samples with predictions at the labels' size.

        Raises:
            ValueError: if `mode` is unknown, the shapes or flags do not fit, or 'loss' gets no samples.
        """
        check_inputs(frames, log_mel)
        if mode not in ("tensor", "loss", "predict"):
            raise ValueError(f"mode: expected 'tensor', 'loss' or 'predict', got {mode!r}")
        counts = existing_frames(data_samples, frames.shape[:2])
        if mode == "loss":
            return self.training_losses(frames, log_mel, counts, data_samples)
        logits = self.prediction(frames, log_mel, counts, data_samples)
        return logits if mode == "tensor" else self.predict(logits, frames.shape[-2:], data_samples)

    def prediction(
        self,
        frames: Tensor,
        log_mel: Tensor,
        counts: Sequence[int] | None,
        data_samples: list[AVSDataSample] | None,
    ) -> Tensor:
        """Compute the logits `(B, T, N_class, h, w)`; a method that draws noise for each clip overrides it."""
        return self.masks(frames, log_mel, counts).logits

    def training_losses(
        self,
        frames: Tensor,
        log_mel: Tensor,
        counts: Sequence[int] | None,
        data_samples: list[AVSDataSample] | None,
    ) -> dict[str, Tensor]:
        """Run the model for training and compute the losses; a method whose training reads the masks overrides it."""
        outputs = self.layer_outputs(frames, log_mel, counts, every_layer=self.deep_supervision)
        return self.loss(outputs, frames.shape[-2:], data_samples)

    def loss(
        self, outputs: Sequence[HeadOutput], size: Sequence[int], data_samples: list[AVSDataSample] | None
    ) -> dict[str, Tensor]:
        """Compute the losses by name; auxiliary ones are prefixed with `aux_`, those of layer i with `d{i}.`.

        Args:
            outputs: of the head for each supervised decoder layer, the last layer last.
            size: (H, W) of the frames.
            data_samples: B samples with labels and flags.

        Raises:
            ValueError: if there are no samples, or the head has no output for one of the losses.
        """
        if not data_samples:
            raise ValueError("data_samples: required by mode 'loss'")
        masks = [s.gt_masks for s in data_samples]
        labelled = [labelled_indices(s) for s in data_samples]
        losses: dict[str, Tensor] = {}
        total = batch_total(sum(len(frames) for frames in labelled), outputs[-1].logits)
        for i, output in enumerate(outputs):
            layer = f"d{i}." if i < len(outputs) - 1 else ""
            for prefix, modules, logits in (
                ("loss_", self.losses, output.logits),
                ("aux_loss_", self.aux_losses, output.intermediate),
            ):
                if not len(modules):
                    continue
                if logits is None:
                    raise ValueError(f"aux_losses: {type(self.head).__name__} has no intermediate mask for them")
                pairs = labelled_frames(resize(logits, size), masks, labelled)
                for module in modules:
                    name = layer + prefix + loss_name(module)
                    losses[name] = sum((module(p, g) * (len(p) / total) for p, g in pairs), logits.new_zeros(()))
        for module in self.matching_losses:
            if not outputs[-1].pairs:
                raise ValueError(f"matching_losses: {type(self.head).__name__} has no pairs of maps and audio for them")
            num_frames = outputs[-1].logits.shape[1]
            flags = torch.tensor([[t in frames for t in range(num_frames)] for frames in labelled])
            last = outputs[-1]
            losses["loss_" + loss_name(module)] = module(last.logits, last.pairs, flags, padded_masks(masks, size))
        for module in self.set_losses:
            sets = [output.queries for output in outputs]
            if sets[-1] is None:
                raise ValueError(f"set_losses: {type(self.head).__name__} gives no sets of queries for them")
            for i, found in enumerate(module(sets, masks, labelled, size)):
                layer = f"d{i}." if i < len(outputs) - 1 else ""
                losses |= {layer + name: value for name, value in found.items()}
        return losses

    @torch.no_grad()
    def predict(
        self, logits: Tensor, size: Sequence[int], data_samples: list[AVSDataSample] | None
    ) -> list[AVSDataSample]:
        """Set the predictions of each sample, at `ori_shape` where it is known, else at the frames' size.

        `pred_logits` for one class; for several `pred_labels`, the class of the greatest logit, frame by frame, since
        logits of 71 classes at the labels' size need too much memory. `frame_logits` and `frame_labels` are the same
        at the frames' size.
        """
        samples = data_samples or [AVSDataSample() for _ in logits]
        for clip, sample in zip(logits, samples, strict=True):
            if clip.shape[1] == 1:
                frames = self.at_frames_size(clip, size, sample)
                sample.pred_logits, sample.frame_logits = at_labels_size(frames, sample).float(), frames.float()
            else:
                labels: dict[str, list[Tensor]] = {"pred_labels": [], "frame_labels": []}
                for frame in clip.split(1):
                    frame = self.at_frames_size(frame, size, sample)
                    labels["pred_labels"].append(at_labels_size(frame, sample).argmax(1))
                    labels["frame_labels"].append(frame.argmax(1))
                for name, found in labels.items():
                    setattr(sample, name, torch.cat(found).to(torch.uint8))
        return samples

    def at_frames_size(self, logits: Tensor, size: Sequence[int], sample: AVSDataSample) -> Tensor:
        """Resize logits `(T, N, h, w)` of one clip to the padded frames' size, and cut them to that of the frames."""
        height, width = sample.get("img_shape", size)
        return resize(logits, size)[..., :height, :width]

    def at_labels_size(self, logits: Tensor, size: Sequence[int], sample: AVSDataSample) -> Tensor:
        """Resize logits `(T, N, h, w)` of one clip to the frames' size, cut, and resize to the labels' size."""
        return at_labels_size(self.at_frames_size(logits, size, sample), sample)


def at_labels_size(frames: Tensor, sample: AVSDataSample) -> Tensor:
    """Resize logits `(T, N, H, W)` from the frames' size to that of a clip's labels."""
    return resize(frames, sample.get("ori_shape", frames.shape[-2:]))


def loss_name(module: nn.Module) -> str:
    """Name a loss by its class: `dice` for DiceLoss."""
    return type(module).__name__.removesuffix("Loss").lower()
