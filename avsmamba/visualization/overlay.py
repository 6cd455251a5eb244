"""What sounds, drawn over a video's pictures: a tint, an outline and, where there are several classes, names."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from avsmamba.datasets.palette import PALETTE
from avsmamba.visualization.pictures import _PREDICTION, Colour, Picture, _font, _shortened

_TINT = 0.42  # how much of the colour lies over what sounds; the rest of the picture stays as it is


def class_colour(index: int, count: int) -> Colour:
    """The colour of a class: AVSBench's where there are several, orange where there is one."""
    if count == 1:
        return _PREDICTION
    red, green, blue = PALETTE[index].tolist()
    return red, green, blue


def class_name(index: int, classes: Sequence[str]) -> str:
    """The name of a class by its index; of one class alone it has index 1."""
    if len(classes) == 1:
        return classes[0]
    return classes[index] if index < len(classes) else f"class {index}"


class Overlay:
    """Masks ready to be drawn over as many pictures as they are shown with.

    Args:
        masks: `(h, w)` bool by class index, disjoint.
        classes: names by index, the background first, or the one class. Names are drawn where there are several.
        size: h and w of the pictures, pixels.
    """

    def __init__(self, masks: Mapping[int, NDArray[np.bool_]], classes: Sequence[str], size: tuple[int, int]):
        self.size = size
        height, width = size
        line = max(2, round(min(size) / 200))
        self.layer = np.zeros((height, width, 3), np.uint8)
        self.inside = np.zeros(size, np.uint8)
        self.outline = np.zeros(size, np.uint8)
        self.names: list[tuple[int, int, Picture]] = []
        for index, mask in masks.items():
            colour = class_colour(index, len(classes))
            here = mask.astype(np.uint8)
            outlines, _ = cv2.findContours(here, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            self.layer[mask] = colour
            self.inside |= here
            cv2.drawContours(self.layer, outlines, -1, colour, line)
            cv2.drawContours(self.outline, outlines, -1, 1, line)
            if len(classes) > 1:
                self.names.append(_sign(class_name(index, classes), here, colour))
        found = np.flatnonzero(self.outline.any(1)), np.flatnonzero(self.outline.any(0))
        self.box = tuple(slice(int(f[0]), int(f[-1]) + 1) for f in found) if len(found[0]) else None

    def draw(self, picture: Picture) -> Picture:
        """A copy of a `(h, w, 3)` RGB picture with what sounds marked.

        Raises:
            ValueError: if it is of another size.
        """
        if picture.shape != (*self.size, 3) or picture.dtype != np.uint8:
            raise ValueError(f"picture: expected {(*self.size, 3)} uint8, got {picture.shape} {picture.dtype}")
        result = picture.copy()
        if self.box is None:
            return result
        part, layer = np.ascontiguousarray(result[self.box]), np.ascontiguousarray(self.layer[self.box])
        tinted = cv2.addWeighted(part, 1 - _TINT, layer, _TINT, 0)
        inside, outline = (np.ascontiguousarray(m[self.box]) for m in (self.inside, self.outline))
        part = cv2.copyTo(layer, outline, cv2.copyTo(tinted, inside, part))
        result[self.box] = part
        for y, x, sign in self.names:
            result[y : y + sign.shape[0], x : x + sign.shape[1]] = sign
        return result


def _sign(name: str, mask: NDArray[np.uint8], colour: Colour) -> tuple[int, int, Picture]:
    """A name on its class's colour, and the line and column of its corner: above the greatest part of the mask."""
    height, width = mask.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    left, top, across, *_ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))].tolist()
    size = max(9, round(min(height, width) / 26))
    name = _shortened(name, max(1, width - size), size)
    sign = Image.new("RGB", (round(_font(size, True).getlength(name)) + size, round(size * 1.5)), colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ink = (20, 22, 26) if dark else (255, 255, 255)
    ImageDraw.Draw(sign).text((sign.width / 2, sign.height / 2), name, ink, _font(size, True), "mm")
    x = min(max(0, left + across // 2 - sign.width // 2), max(0, width - sign.width))
    y = min(max(0, top - sign.height), max(0, height - sign.height))
    return y, x, np.asarray(sign)[: height - y, : width - x]
