"""The data of one clip on its way from the data set through the model to the metric."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


class AVSDataSample(BaseDataElement):
    """One clip's labels, flags and predictions; T frames, labels of h x w pixels.

    Data fields:
        gt_masks: `(T, h, w)` uint8, 1 where an object sounds (S4, MS3), or class indices, 0 for the background (AVSS).
        gt_temporal_mask_flag: `(T,)` bool, frames that are labelled.
        vid_temporal_mask_flag: `(T,)` bool, frames that exist; padding follows them.
        pred_logits: `(T, 1, h, w)` float32, set by prediction of one class.
        pred_labels: `(T, h, w)` uint8 class indices, set by prediction of several classes; 0 in padding.
        frame_logits, frame_labels: `(T, 1, H, W)` and `(T, H, W)`, the same at the frames' size in the
            model; scores at other sizes than the labels' are computed from them.

    Meta information: `clip`, `category`, `split`, `subset`, `part` (of AVSS: v1s, v1m, v2), `frame_names`,
    `ori_shape` (h, w) of the labels, `img_shape` (H, W) of the frames in the model, `clip_index`, `audio`.
    """


class CachedFrames:
    """The maps of a frozen backbone in place of frames `(B, T, 3, H, W)`, with a tensor's methods that a model calls.

    Args:
        maps: four tensors `(B, T, C_i, h_i, w_i)`, or with the first axes flattened as the methods do.
        size: (H, W) of the frames.
        backbone: `weights_digest` of the backbone that computed them.
    """

    def __init__(self, maps: Sequence[Tensor], size: Sequence[int], backbone: str):
        self.maps, self.size, self.backbone = list(maps), tuple(size), backbone

    @property
    def shape(self) -> torch.Size:
        """Shape of the frames."""
        return torch.Size((*self.maps[0].shape[:-3], 3, *self.size))

    @property
    def ndim(self) -> int:
        """Number of axes of the frames."""
        return self.maps[0].ndim

    @property
    def device(self) -> torch.device:
        """Device of the maps."""
        return self.maps[0].device

    def flatten(self, start: int, end: int) -> "CachedFrames":
        """Flatten leading axes."""
        return self._with(lambda m: m.flatten(start, end))

    def unsqueeze(self, dim: int) -> "CachedFrames":
        """Add a leading axis."""
        return self._with(lambda m: m.unsqueeze(dim))

    def index_select(self, dim: int, index: Tensor) -> "CachedFrames":
        """Select along a leading axis."""
        return self._with(lambda m: m.index_select(dim, index))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "CachedFrames":
        return CachedFrames([change(m) for m in self.maps], self.size, self.backbone)


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
