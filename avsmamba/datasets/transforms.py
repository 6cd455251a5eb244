"""Transforms of a clip, `{"frames": Video, "gt_masks": Mask}`, based on torchvision's.

All random numbers come from torch's global generator. Frames are resized bilinearly with antialiasing, masks to the
nearest label. With `consistent` all frames of a clip share the random numbers, else each frame draws its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from avsmamba.limits import AT_LEAST_0, POSITIVE, PROBABILITY, limits
from avsmamba.registry import TRANSFORMS

Inputs = dict[str, Any]


class ClipTransform:
    """A torchvision transform, applied to a whole clip or to each frame by itself."""

    def __init__(self, transform: Callable[[Inputs], Inputs], consistent: bool = True):
        self.transform, self.consistent = transform, consistent

    def __call__(self, clip: Inputs) -> Inputs:
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
        shorter_side: keep the aspect ratio and resize the shorter side to `size`, one number.

    Raises:
        ValueError: if `size` is not such a number or pair.
    """

    def __init__(self, size: int | Sequence[int], shorter_side: bool = False):
        if shorter_side and not isinstance(size, int):
            raise ValueError(f"size: expected one number of pixels with shorter_side, got {size}")
        pair = _pair(size)
        super().__init__(v2.Resize(pair[:1] if shorter_side else pair))


@TRANSFORMS.register_module()
class CenterCrop(ClipTransform):
    """Crop the centre; a smaller picture is padded with black, which is background.

    AVSBench and AVS-Mamba's authors train on AVSS with this after `Resize` with `shorter_side: true`.

    Args:
        size: `[height, width]`, or one number for both, pixels.
    """

    def __init__(self, size: int | Sequence[int]):
        super().__init__(v2.CenterCrop(_pair(size)))


@TRANSFORMS.register_module()
class RandomFlip(ClipTransform):
    """Flip left and right.

    Args:
        prob: probability.
        consistent: the same for all frames.
    """

    @limits(prob=PROBABILITY)
    def __init__(self, prob: float = 0.5, consistent: bool = True):
        super().__init__(v2.RandomHorizontalFlip(prob), consistent)


@TRANSFORMS.register_module()
class RandomResizedCrop(ClipTransform):
    """Crop a random part of the picture and resize it.

    Args:
        size: of the result, `[height, width]` or one number, pixels.
        scale: range of the crop's share of the picture's area.
        ratio: range of the crop's width / height before resizing.
        consistent: the same for all frames.
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
class RandomSizeCrop(ClipTransform):
    """Resize the picture, or with probability `prob` a random crop of it, to a fixed size.

    For a crop, the picture is first resized to a random shorter side with its aspect ratio; then the crop's height and
    width are drawn from `min_crop` to `max_crop` each, and its position. The result has the same size in all cases, so
    frames with different draws can be stacked. Source: the training of AVS-Mamba's authors on S4 and MS3.

    Args:
        size: of the result, `[height, width]` or one number, pixels.
        prob: of a crop.
        sides: lengths of the shorter side, pixels; one is drawn.
        min_crop: least height and width of the crop, pixels; a shorter side is not cropped.
        max_crop: greatest height and width of the crop, pixels.
        consistent: the same for all frames.

    Raises:
        ValueError: if `prob`, `sides` or the bounds of the crop are out of range.
    """

    @limits(prob=PROBABILITY)
    def __init__(
        self,
        size: int | Sequence[int],
        prob: float = 0.5,
        sides: Sequence[int] = (400, 500, 600),
        min_crop: int = 384,
        max_crop: int = 600,
        consistent: bool = True,
    ):
        if not sides or min(sides) < 1:
            raise ValueError(f"sides: expected one length in pixels or more, got {list(sides)}")
        if not 1 <= min_crop <= max_crop:
            raise ValueError(f"min_crop, max_crop: expected 1 <= min_crop <= max_crop, got {min_crop} and {max_crop}")
        super().__init__(self.resize, consistent)
        self.size, self.prob, self.sides = _pair(size), prob, tuple(sides)
        self.min_crop, self.max_crop = min_crop, max_crop

    def resize(self, clip: Inputs) -> Inputs:
        """Return the clip, or a crop of it, at the fixed size."""
        if float(torch.rand(())) < self.prob:
            clip = self.crop(clip)
        return {k: v2.functional.resize(v, self.size) for k, v in clip.items()}

    def crop(self, clip: Inputs) -> Inputs:
        """Resize all frames to one random size and return one random crop of them."""
        side = self.sides[_draw(0, len(self.sides) - 1)]
        clip = {k: v2.functional.resize(v, [side]) for k, v in clip.items()}
        height, width = clip["frames"].shape[-2:]
        h, w = (_draw(min(self.min_crop, n), min(self.max_crop, n)) for n in (height, width))
        top, left = _draw(0, height - h), _draw(0, width - w)
        return {k: v2.functional.crop(v, top, left, h, w) for k, v in clip.items()}


@TRANSFORMS.register_module()
class PhotometricDistortion(ClipTransform):
    """Change brightness, contrast, saturation and hue, each with probability `prob`, then the order of the channels.

    Args:
        brightness: range [1 - x, 1 + x] of the factor; 0 disables it.
        contrast: as brightness.
        saturation: as brightness.
        hue: range [-x, x] of the shift, as a share of the colour circle (up to 0.5).
        prob: of each change.
        channel_permutation_prob: probability that red, green and blue are permuted, as in mmdetection's
            PhotoMetricDistortion and in the training of AVS-Mamba's authors; at 0 no random number is drawn.
        consistent: the same for all frames.
    """

    @limits(brightness=AT_LEAST_0, contrast=AT_LEAST_0, saturation=AT_LEAST_0, hue=AT_LEAST_0, prob=PROBABILITY)
    def __init__(
        self,
        brightness: float = 0.125,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.05,
        prob: float = 0.5,
        channel_permutation_prob: float = 0.5,
        consistent: bool = True,
    ):
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        steps = [v2.RandomApply([v2.ColorJitter(**{k: v})], prob) for k, v in amounts.items() if v]
        if channel_permutation_prob:
            steps.append(v2.RandomApply([v2.RandomChannelPermutation()], channel_permutation_prob))
        super().__init__(v2.Compose(steps) if steps else v2.Identity(), consistent)


def _pair(size: int | Sequence[int]) -> list[int]:
    """Return height and width; torchvision takes one number as the shorter side."""
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"size: expected [height, width] or one number of pixels, got {size}")
    return pair


def _draw(least: int, greatest: int) -> int:
    return int(torch.randint(least, greatest + 1, ()))
