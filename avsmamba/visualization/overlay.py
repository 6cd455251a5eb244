"""Draw masks over a video's pictures: a tint, an outline and, if there are several classes, names."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from avsmamba.visualization.canvas import Picture, class_colour, class_name, contours, label_box

_TINT = 0.42  # weight of the colour inside a mask


class Overlay:
    """Masks, prepared once for all the pictures that they are drawn on.

    Args:
        masks: `(h, w)` bool by class index, disjoint.
        classes: names by index, the background first, or the one class. Names are drawn if there are several.
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
            outlines = contours(here)
            self.layer[mask] = colour
            self.inside |= here
            cv2.drawContours(self.layer, outlines, -1, colour, line)
            cv2.drawContours(self.outline, outlines, -1, 1, line)
            if len(classes) > 1:
                self.names.append(label_box(class_name(index, classes), here, colour))
        found = np.flatnonzero(self.outline.any(1)), np.flatnonzero(self.outline.any(0))
        self.box = tuple(slice(int(f[0]), int(f[-1]) + 1) for f in found) if len(found[0]) else None

    def draw(self, picture: Picture) -> Picture:
        """Return a copy of a `(h, w, 3)` RGB picture with the masks drawn.

        Raises:
            ValueError: if it has another size.
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
        for y, x, box in self.names:
            result[y : y + box.shape[0], x : x + box.shape[1]] = box
        return result
