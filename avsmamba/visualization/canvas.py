"""Draw text, masks and labels on pictures: `(H, W, 3)` uint8 RGB arrays."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from avsmamba.datasets.palette import PALETTE
from avsmamba.utils import UserError, atomic_write

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

INK: Colour = (34, 38, 46)
FAINT: Colour = (110, 116, 128)
TRUTH: Colour = (0, 200, 150)
PREDICTION: Colour = (255, 150, 30)


def class_colour(index: int, count: int = len(PALETTE)) -> Colour:
    """Return the colour of one of `count` classes: AVSBench's, or orange if there is one class."""
    if count == 1:
        return PREDICTION
    red, green, blue = PALETTE[index].tolist()
    return red, green, blue


def class_name(index: int, classes: Sequence[str]) -> str:
    """Return the name of a class by its index; a single class has index 1."""
    if len(classes) == 1:
        return classes[0]
    return classes[index] if index < len(classes) else f"class {index}"


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans, size in pixels; OpenCV's own fonts are hard to read when small."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)


def text_size(width: int) -> int:
    """Return the size of the text around panes of this width, pixels."""
    return max(14, round(width / 13))


def shorten(text: str, width: int, size: int) -> str:
    """Cut bold text so that it is at most `width` pixels long."""
    if font(size, True).getlength(text) <= width:
        return text
    while text and font(size, True).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def resize(image: NDArray[np.generic], width: int, height: int, interpolation: int) -> Picture:
    """Resize a picture or a mask by one of OpenCV's methods."""
    return cv2.resize(np.ascontiguousarray(image, np.uint8), (width, height), interpolation=interpolation)


def dim(pane: Picture) -> Picture:
    """Return a pane in dark grey."""
    grey = pane @ np.array([0.299, 0.587, 0.114])
    return np.repeat((38 + 0.38 * grey)[..., None], 3, axis=2).astype(np.uint8)


def contours(mask: NDArray[np.uint8]) -> Sequence[NDArray[np.int32]]:
    """Return the outlines of a `(h, w)` mask, holes included, for `cv2.drawContours`."""
    return cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]


def draw_masks(pane: Picture, mask: NDArray[np.generic], colour: Colour | None) -> Picture:
    """Dim a pane except where a `(h, w)` mask is not 0; tint and outline these places.

    torchvision's `draw_segmentation_masks` draws neither outlines nor a dimmed background.

    Args:
        pane: the picture.
        mask: of any size.
        colour: of the foreground; None: `mask` holds class indices, and each class has AVSBench's colour.
    """
    height, width = pane.shape[:2]
    tint = 0.5 if colour is None else 0.22
    inside = resize(mask if colour is None else mask != 0, width, height, cv2.INTER_NEAREST)
    colours = {index: np.array(colour or class_colour(index)) for index in np.unique(inside).tolist() if index}
    picture = dim(pane)
    for index, value in colours.items():
        picture[inside == index] = (1 - tint) * pane[inside == index] + tint * value
    for index, value in colours.items():
        outlines = contours((inside == index).astype(np.uint8))
        cv2.drawContours(picture, outlines, -1, value.tolist(), max(2, width // 110), cv2.LINE_AA)
    return picture if mask.any() else write_note(picture, "nothing sounds")


def write_note(pane: Picture, text: str) -> Picture:
    """Write light text at the bottom of a pane."""
    image, (height, width), size = Image.fromarray(pane), pane.shape[:2], text_size(pane.shape[1])
    ImageDraw.Draw(image).text((width / 2, height - size), text, (235, 238, 242), font(size), anchor="mm")
    return np.asarray(image)


def label_box(name: str, mask: NDArray[np.uint8], colour: Colour) -> tuple[int, int, Picture]:
    """Draw a name on its class's colour.

    Returns:
        row and column of the box's corner, above the largest part of the mask, and the box.
    """
    height, width = mask.shape
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    left, top, across, *_ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))].tolist()
    size = max(9, round(min(height, width) / 26))
    name = shorten(name, max(1, width - size), size)
    box = Image.new("RGB", (round(font(size, True).getlength(name)) + size, round(size * 1.5)), colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ink = (20, 22, 26) if bright else (255, 255, 255)
    ImageDraw.Draw(box).text((box.width / 2, box.height / 2), name, ink, font(size, True), "mm")
    x = min(max(0, left + across // 2 - box.width // 2), max(0, width - box.width))
    y = min(max(0, top - box.height), max(0, height - box.height))
    return y, x, np.asarray(box)[: height - y, : width - x]


def write_png(path: Path, image: NDArray[np.uint8], **notes: Any) -> None:
    """Write `(h, w)` grey or `(h, w, 3)` RGB atomically; `notes` become JSON texts in the file.

    Raises:
        UserError: if the file cannot be written.
    """
    texts = PngImagePlugin.PngInfo()
    for name, value in notes.items():
        texts.add_text(name, json.dumps(value))
    try:
        with atomic_write(path) as temporary:
            Image.fromarray(image).save(temporary, pnginfo=texts, compress_level=3)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
