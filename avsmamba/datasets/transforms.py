"""Transforms of a clip, `{"frames": Video, "gt_masks": Mask}`: torchvision's, once for all frames or for each.

All random numbers come from torch's global generator. Frames are resized bilinearly with antialiasing, masks to the
nearest label. `consistent` says whether one draw serves all frames of a clip, as a camera that stays what it is from
second to second, or each frame has its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from avsmamba.limits import AT_LEAST_0, POSITIVE, PROBABILITY, limits
from avsmamba.registry import TRANSFORMS

Clip = dict[str, Any]


class ClipTransform:
    """A torchvision transform, applied to a whole clip or to each frame."""

    def __init__(self, transform: Callable[[Clip], Clip], consistent: bool = True):
        self.transform, self.consistent = transform, consistent

    def __call__(self, clip: Clip) -> Clip:
        if self.consistent:
            return self.transform(clip)
        count = len(clip["frames"])
        frames = [
            self.transform({k: tv_tensors.wrap(v[t : t + 1], like=v) for k, v in clip.items()}) for t in range(count)
        ]
        return {k: tv_tensors.wrap(torch.cat([f[k] for f in frames]), like=v) for k, v in clip.items()}


@TRANSFORMS.register_module()
class Resize(ClipTransform):
    """Resize to a fixed size.

    Args:
        size: `[height, width]`, or one number for both, pixels.
    """

    def __init__(self, size: int | Sequence[int]):
        super().__init__(v2.Resize(_pair(size)))


@TRANSFORMS.register_module()
class RandomFlip(ClipTransform):
    """Mirror left and right.

    Args:
        prob: probability.
        consistent: one draw for all frames.
    """

    @limits(prob=PROBABILITY)
    def __init__(self, prob: float = 0.5, consistent: bool = True):
        super().__init__(v2.RandomHorizontalFlip(prob), consistent)


@TRANSFORMS.register_module()
class RandomResizedCrop(ClipTransform):
    """Cut out a random part of the picture and resize it: random resizing and cropping in one step.

    Args:
        size: of the result, `[height, width]` or one number, pixels.
        scale: least and greatest share of the picture's area that is kept.
        ratio: least and greatest width / height of the part before it is resized.
        consistent: one draw for all frames.
    """

    @limits(scale=POSITIVE, ratio=POSITIVE)
    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.5, 1.0),
        ratio: Sequence[float] = (0.75, 1.3333),
        consistent: bool = True,
    ):
        super().__init__(v2.RandomResizedCrop(_pair(size), tuple(scale), tuple(ratio)), consistent)


@TRANSFORMS.register_module()
class PhotometricDistortion(ClipTransform):
    """Change brightness, contrast, saturation and hue, each with probability `prob` and in this order.

    Args:
        brightness: a factor is drawn from 1 - brightness to 1 + brightness; 0: never changed.
        contrast: as brightness.
        saturation: as brightness.
        hue: a shift is drawn from -hue to hue, as a share of the colour circle (up to 0.5).
        prob: of each change.
        consistent: one draw for all frames.
    """

    @limits(brightness=AT_LEAST_0, contrast=AT_LEAST_0, saturation=AT_LEAST_0, hue=AT_LEAST_0, prob=PROBABILITY)
    def __init__(
        self,
        brightness: float = 0.125,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.05,
        prob: float = 0.5,
        consistent: bool = True,
    ):
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        steps = [v2.RandomApply([v2.ColorJitter(**{k: v})], prob) for k, v in amounts.items() if v]
        super().__init__(v2.Compose(steps) if steps else v2.Identity(), consistent)


def _pair(size: int | Sequence[int]) -> list[int]:
    """Height and width; torchvision would take one number for the shorter side."""
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"size: expected [height, width] or one number of pixels, got {size}")
    return pair
