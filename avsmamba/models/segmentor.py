"""The whole model (Fig. 2): backbone -> projection -> encoder -> decoder and pyramid -> head, from registered parts."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from avsmamba.models.head import HeadOutput
from avsmamba.models.losses import labelled_frames
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample

Config = dict[str, Any]


@MODELS.register_module()
class AVSSegmentor(BaseModel):
    """Frames and sound in, masks of what sounds out.

    `loss`: extract -> head -> resize to the frames' size -> losses on labelled frames.
    `predict`: extract -> head -> resize to the frames' size -> cut the padding -> resize to the labels' size.
    Clips may be padded to a common number of frames behind: padding does not enter the model, see `masks`.

    Args:
        backbone: frames `(N, 3, H, W)` to four maps; has `out_channels`.
        audio_encoder: log-mel `(B, T, 1, 96, 64)` to `(B, T, C_a)`; has `out_channels`.
        projection: maps and audio to C channels.
        head: query and mask features to logits, and what the losses below read.
        losses: on the logits.
        encoder: maps to maps, or None: as they are.
        decoder: maps and audio to queries `(B, T, Q, C)`, or None: the audio is the query.
        pyramid: maps and audio to mask features, or None: the finest map.
        aux_losses: on the intermediate mask; none by default.
        matching_losses: on the logits and the pairs of maps and audio of the head; none by default.
        embed_dims: C, handed to every part of the neck and to the head.
        data_preprocessor: config of the data preprocessor.
    """

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
        embed_dims: int = 256,
        data_preprocessor: Config | None = None,
    ):
        # Built here: mmengine would look the name up in its root registry unless a default scope is set.
        super().__init__(data_preprocessor=MODELS.build(data_preprocessor or {"type": "AVSDataPreprocessor"}))
        dims = {"embed_dims": embed_dims}

        def part(config: Config, **known: Any) -> nn.Module:
            return MODELS.build(config, default_args=dims | known)

        def optional(config: Config | None) -> nn.Module | None:
            return None if config is None else part(config)

        self.backbone = MODELS.build(backbone)
        self.audio_encoder = MODELS.build(audio_encoder)
        channels = {"in_channels": self.backbone.out_channels, "audio_channels": self.audio_encoder.out_channels}
        self.projection = part(projection, **channels)
        self.encoder, self.decoder, self.pyramid = optional(encoder), optional(decoder), optional(pyramid)
        self.head = part(head)
        self.losses = nn.ModuleList(MODELS.build(c) for c in losses)
        self.aux_losses = nn.ModuleList(MODELS.build(c) for c in aux_losses or ())
        self.matching_losses = nn.ModuleList(MODELS.build(c) for c in matching_losses or ())

    def extract(self, frames: Tensor, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Everything before the head, for clips without padding.

        Args:
            frames: `(B, T, 3, H, W)` normalised.
            log_mel: `(B, T, 1, 96, 64)`.

        Returns:
            queries `(B, T, Q, C)` and mask features `(B, T, h, w, C)`, or what else the head reads.
        """
        return self.neck(*self.features(frames, log_mel))

    def features(self, frames: Tensor, log_mel: Tensor) -> tuple[list[Tensor], Tensor]:
        """Projected maps `(B, T, h_i, w_i, C)` and audio `(B, T, C)`; every frame and second is seen alone."""
        return self.projection(self.backbone(frames.flatten(0, 1)), self.audio_encoder(log_mel))

    def neck(self, maps: list[Tensor], audio: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and mask features from projected maps and audio; here frames of a clip meet."""
        if self.encoder is not None:
            maps = self.encoder(maps)
        query = audio.unsqueeze(2) if self.decoder is None else self.decoder(maps, audio)
        return query, maps[0] if self.pyramid is None else self.pyramid(maps, audio)

    def masks(self, frames: Tensor, log_mel: Tensor, counts: Sequence[int] | None = None) -> HeadOutput:
        """What the head gives; zeros in padded frames.

        Padding does not enter the model: the frames that exist go through the backbone together, and the neck takes
        the clips of one length at a time. So what lies in the padding can neither reach a real frame nor the
        statistics of a batch normalisation, and costs nothing.

        Args:
            frames: `(B, T, 3, H, W)` normalised.
            log_mel: `(B, T, 1, 96, 64)`.
            counts: how many frames of each clip exist; None: all.
        """
        batch, num_frames = frames.shape[:2]
        if counts is None or min(counts) == num_frames:
            return self.head(*self.extract(frames, log_mel))
        exists = torch.arange(num_frames) < torch.tensor(counts)[:, None]
        place = exists.flatten().nonzero().squeeze(1).to(frames.device)

        def real(x: Tensor) -> Tensor:
            return x.flatten(0, 1)[place].unsqueeze(0)

        maps, audio = self.features(real(frames), real(log_mel))
        start = exists.sum(1).cumsum(0) - exists.sum(1)
        parts, places = [], []
        for count in sorted(set(counts)):
            clips = [i for i, c in enumerate(counts) if c == count]
            index = torch.stack([start[i] + torch.arange(count) for i in clips]).to(frames.device)
            parts.append(self.head(*self.neck([m[0, index] for m in maps], audio[0, index])))
            places.append(index.flatten())
        order = torch.cat(places)

        def whole(values: Sequence[Any]) -> Any:
            if values[0] is None:
                return None
            if isinstance(values[0], tuple):
                return tuple(whole(same) for same in zip(*values, strict=True))
            flat = torch.cat([t.flatten(0, 1) for t in values])
            result = flat.new_zeros(batch * num_frames, *flat.shape[1:])
            return result.index_copy(0, place[order], flat).unflatten(0, (batch, num_frames))

        return HeadOutput(*(whole(values) for values in zip(*parts, strict=True)))

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
            data_samples: B samples; needed by 'loss', which reads their masks and flags. In every mode their
                `vid_temporal_mask_flag` says which frames exist.
            mode: 'tensor' gives logits `(B, T, N_class, h, w)` at the head's size (H / 4, W / 4 in AVS-Mamba), 'loss' a
                dict of losses, 'predict' the samples with predictions at the labels' size.

        Raises:
            ValueError: if `mode` is unknown, the shapes or flags do not fit, or 'loss' gets no samples.
        """
        check_inputs(frames, log_mel)
        output = self.masks(frames, log_mel, existing_frames(data_samples, frames.shape[:2]))
        if mode == "tensor":
            return output.logits
        if mode == "loss":
            return self.loss(output, frames.shape[-2:], data_samples)
        if mode == "predict":
            return self.predict(output.logits, frames.shape[-2:], data_samples)
        raise ValueError(f"mode: expected 'tensor', 'loss' or 'predict', got {mode!r}")

    def loss(
        self, output: HeadOutput, size: Sequence[int], data_samples: list[AVSDataSample] | None
    ) -> dict[str, Tensor]:
        """Losses by name; auxiliary ones are prefixed with `aux_`."""
        if not data_samples:
            raise ValueError("data_samples: mode 'loss' needs the labels")
        if len(self.aux_losses) and output.intermediate is None:
            raise ValueError(f"aux_losses: {type(self.head).__name__} gives no intermediate mask for them")
        if len(self.matching_losses) and not output.pairs:
            raise ValueError(f"matching_losses: {type(self.head).__name__} gives no pairs of maps and audio for them")
        masks = [s.gt_masks for s in data_samples]
        flags = [s.gt_temporal_mask_flag & s.get("vid_temporal_mask_flag", True) for s in data_samples]
        labelled = [flag.nonzero().flatten().tolist() for flag in flags]
        losses: dict[str, Tensor] = {}
        for prefix, modules, logits in (
            ("loss_", self.losses, output.logits),
            ("aux_loss_", self.aux_losses, output.intermediate),
        ):
            if logits is None or not len(modules):
                continue
            pairs = labelled_frames(resize(logits, size), masks, labelled)
            frames = max(1, sum(len(p) for p, _ in pairs))
            for module in modules:
                name = prefix + type(module).__name__.removesuffix("Loss").lower()
                losses[name] = sum((module(p, g) * (len(p) / frames) for p, g in pairs), logits.new_zeros(()))
        for module in self.matching_losses:
            name = "loss_" + type(module).__name__.removesuffix("Loss").lower()
            losses[name] = module(output.logits, output.pairs)
        return losses

    @torch.no_grad()
    def predict(
        self, logits: Tensor, size: Sequence[int], data_samples: list[AVSDataSample] | None
    ) -> list[AVSDataSample]:
        """Put the predictions on each sample, at `ori_shape` where it is known, else at the frames' size.

        `pred_logits` for one class; for several `pred_labels`, the class of the greatest logit, frame by frame, since
        logits of 71 classes at the labels' size would fill the memory.
        """
        samples = data_samples or [AVSDataSample() for _ in logits]
        for clip, sample in zip(logits, samples, strict=True):
            if clip.shape[1] == 1:
                sample.pred_logits = self.at_labels_size(clip, size, sample).float()
            else:
                labels = [self.at_labels_size(frame, size, sample).argmax(1) for frame in clip.split(1)]
                sample.pred_labels = torch.cat(labels).to(torch.uint8)
        return samples

    def at_labels_size(self, logits: Tensor, size: Sequence[int], sample: AVSDataSample) -> Tensor:
        """`(T, N, h, w)`: logits of one clip brought to the frames' size, cut and brought to the labels' size."""
        height, width = sample.get("img_shape", size)
        return resize(resize(logits, size)[..., :height, :width], sample.get("ori_shape", (height, width)))


def resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of the last two axes; leading axes are kept."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    flat = logits.flatten(0, -4) if logits.ndim > 4 else logits
    return F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False).unflatten(0, logits.shape[:-3])


def existing_frames(data_samples: Sequence[AVSDataSample] | None, shape: Sequence[int]) -> list[int] | None:
    """How many frames of each clip exist, by `vid_temporal_mask_flag`; None without samples or where all do.

    Args:
        data_samples: B samples, or None; one without the flag has all frames.
        shape: (B, T).

    Raises:
        ValueError: if there are not B samples, or a flag is not of length T, has padding before a frame that exists,
            or no such frame; names the clip.
    """
    if not data_samples:
        return None
    batch, num_frames = shape
    if len(data_samples) != batch:
        raise ValueError(f"data_samples: expected {batch} to go with the frames, got {len(data_samples)}")
    counts = []
    for i, sample in enumerate(data_samples):
        flag = sample.get("vid_temporal_mask_flag")
        values = [True] * num_frames if flag is None else [bool(v) for v in flag.tolist()]
        count = sum(values)
        if len(values) != num_frames or not count or not all(values[:count]):
            raise ValueError(
                f"{sample.get('clip', f'clip {i} of the batch')}: vid_temporal_mask_flag: expected {num_frames} flags, "
                f"padding behind one existing frame or more, got {[int(v) for v in values]}"
            )
        counts.append(count)
    return None if min(counts) == num_frames else counts


def check_inputs(frames: Tensor, log_mel: Tensor) -> None:
    """Raise a ValueError that names the argument whose shape does not fit."""
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames: expected (B, T, 3, H, W), got {tuple(frames.shape)}")
    if frames.shape[-2] % 32 or frames.shape[-1] % 32:
        raise ValueError(f"frames: H and W must be multiples of 32, got {tuple(frames.shape[-2:])}")
    expected = (*frames.shape[:2], 1, 96, 64)
    if tuple(log_mel.shape) != expected:
        raise ValueError(f"log_mel: expected {expected} to go with the frames, got {tuple(log_mel.shape)}")
