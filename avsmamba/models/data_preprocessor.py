"""From a list of uint8 clips to a padded, normalised batch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from avsmamba.limits import AT_LEAST_1, POSITIVE, limits
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample, CachedFrames


@MODELS.register_module()
class AVSDataPreprocessor(BaseDataPreprocessor):
    """Stack, normalise and pad clips; move frames, log-mel and masks to the model's device.

    Args:
        mean: RGB means in [0, 255].
        std: RGB standard deviations in [0, 255].
        size_divisor: heights and widths are padded at the bottom and right to a multiple of this (pixels).
    """

    @limits(std=POSITIVE, size_divisor=AT_LEAST_1)
    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        size_divisor: int = 32,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.size_divisor = size_divisor

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: `frames` (list of `(T, 3, H, W)` uint8), `log_mel` (list of `(T, 1, 96, 64)`), `data_samples`;
                from shards of features, in place of `frames` four lists `maps` of `(T, C_i, h_i, w_i)`.
            training: unused; part of mmengine's interface.

        Returns:
            The same keys, with `frames` `(B, T, 3, H', W')` float32, or `CachedFrames`, and `log_mel`
            `(B, T, 1, 96, 64)`.

        Raises:
            ValueError: if the clips of a batch differ in their number of frames.
        """
        data = dict(data)
        samples = data.pop("data_samples", None)
        data = self.cast_data(data)
        if samples is not None:
            data["data_samples"] = [self.with_masks_moved(sample) for sample in samples]
        log_mel = torch.stack(list(data.pop("log_mel")))
        if "maps" in data:
            frames = self.cached(data.pop("maps"), data["data_samples"])
            return {**data, "frames": frames, "log_mel": log_mel}
        counts = {len(clip) for clip in data["frames"]}
        if len(counts) != 1:
            raise ValueError(f"frames: clips of one batch must have the same number of frames, got {sorted(counts)}")
        height, width = self.padded_size(data["frames"])
        frames = torch.stack([self.prepare(clip, height, width) for clip in data["frames"]])
        return {**data, "frames": frames, "log_mel": log_mel}

    def cached(self, maps: Sequence[Sequence[Tensor]], samples: Sequence[AVSDataSample]) -> CachedFrames:
        """Stack the maps of a frozen backbone, in float32.

        Raises:
            ValueError: if the frames of the clips had different sizes, or different backbones computed the maps.
        """
        about = {(s.img_shape, s.backbone) for s in samples}
        if len(about) != 1:
            raise ValueError(f"maps: clips of one batch must have one frame size and backbone, got {sorted(about)}")
        (height, width), backbone = about.pop()
        d = self.size_divisor
        size = (-(-height // d) * d, -(-width // d) * d)
        return CachedFrames([torch.stack(list(level)).float() for level in maps], size, backbone)

    def with_masks_moved(self, sample: AVSDataSample) -> AVSDataSample:
        """Copy a sample, its masks to the model's device; flags stay on the CPU: reading them does not synchronise."""
        copy = sample.new()
        if "gt_masks" in sample:
            copy.gt_masks = self.cast_data(sample.gt_masks)
        return copy

    def padded_size(self, clips: Sequence[Tensor]) -> tuple[int, int]:
        """Return the smallest height and width that hold every clip, multiples of `size_divisor`."""
        d = self.size_divisor
        height, width = max(c.shape[-2] for c in clips), max(c.shape[-1] for c in clips)
        return -(-height // d) * d, -(-width // d) * d

    def prepare(self, clip: Tensor, height: int, width: int) -> Tensor:
        """Normalise one `(T, 3, H, W)` clip and pad it with zeros (the mean colour)."""
        normal = (clip.float() - self.mean) / self.std
        return F.pad(normal, (0, width - clip.shape[-1], 0, height - clip.shape[-2]))
