"""Pictures in rows and columns, with names at the left, heads above and a title."""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from avsmamba.visualization.pictures import (
    _CLASS_TINT,
    _FAINT,
    _INK,
    _PANE_WIDTH,
    _PREDICTION,
    _TINT,
    _TRUTH,
    Picture,
    _class_colour,
    _dim,
    _font,
    _layout,
    _legend,
    _masked,
    _note,
    _resize,
    _shortened,
)


def panes_of(frames: Picture) -> list[Picture]:
    """`(T, 3, H, W)` frames as T panes `(H', W', 3)`, narrow ones a whole number of times larger."""
    height, width = frames.shape[-2:]
    scale = max(1, -(-_PANE_WIDTH // width))
    return [_resize(frame.transpose(1, 2, 0), width * scale, height * scale, cv2.INTER_CUBIC) for frame in frames]


def masked(panes: Sequence[Picture], masks: NDArray[np.generic], truth: bool, semantic: bool = False) -> list[Picture]:
    """Panes in which what `(T, h, w)` masks mark keeps its colours and an outline, and the rest is dimmed.

    Of semantic masks, class indices with 0 for the background, each class has AVSBench's colour.
    """
    size, colour = text_size(panes[0].shape[1]), _TRUTH if truth else _PREDICTION
    if semantic:
        return [_masked(pane, mask, _class_colour, _CLASS_TINT, size) for pane, mask in zip(panes, masks, strict=True)]
    return [_masked(pane, mask != 0, lambda _: colour, _TINT, size) for pane, mask in zip(panes, masks, strict=True)]


def with_legend(picture: Picture, rows: Mapping[str, Sequence[Picture]], classes: Mapping[int, str]) -> Picture:
    """The grid of these rows with the names of classes by index below it."""
    pane = next(iter(rows.values()))[0]
    layout = _layout(*pane.shape[:2])._replace(left=_left(rows, text_size(pane.shape[1])))
    return np.concatenate([picture, _legend(classes, picture.shape[1], layout)])


def truths(
    panes: Sequence[Picture], masks: NDArray[np.generic], labelled: NDArray[np.bool_], semantic: bool = False
) -> list[Picture]:
    """`masked` with true masks; a pane whose mask is not known, where `labelled` `(T,)` is false, says so."""
    size = text_size(panes[0].shape[1])
    return [
        row if known else _note(_dim(pane), "not labelled", size)
        for row, pane, known in zip(masked(panes, masks, True, semantic), panes, labelled, strict=True)
    ]


def text_size(width: int) -> int:
    """Of the text around panes of this width, pixels."""
    return max(14, round(width / 13))


def grid(rows: Mapping[str, Sequence[Picture]], title: str, heads: Sequence[str]) -> Picture:
    """Lay rows of panes out on white.

    Args:
        rows: panes `(H, W, 3)` RGB, all of one size and as many in each row, by the name at the left; a name may have
            several lines.
        title: the line on top.
        heads: what stands above each column.

    Returns:
        `(H', W', 3)` RGB.

    Raises:
        ValueError: if the rows differ in length or the panes in size.
    """
    shapes = {pane.shape for panes in rows.values() for pane in panes}
    if len(shapes) != 1 or {len(panes) for panes in rows.values()} != {len(heads)}:
        raise ValueError(f"rows: expected {len(heads)} panes of one size in each row, got sizes {sorted(shapes)}")
    height, width, _ = next(iter(shapes))
    size = text_size(width)
    gap, margin = max(4, size // 3), size
    left = _left(rows, size)
    top = margin + round(size * 3.4)
    xs = [left + column * (width + gap) for column in range(len(heads))]
    image = Image.new("RGB", (xs[-1] + width + margin, top + len(rows) * (height + gap) - gap + margin), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, margin), _shortened(title, image.width - left - margin, size), _INK, _font(size, True), "la")
    for x, head in zip(xs, heads, strict=True):
        draw.text((x + width / 2, top - size // 2), head, _FAINT, _font(size), "ms")
    for row, (name, panes) in enumerate(rows.items()):
        y = top + row * (height + gap)
        draw.text((left - size * 2 // 3, y + height / 2), name, _INK, _font(size), "rm", align="right")
        for x, pane in zip(xs, panes, strict=True):
            image.paste(Image.fromarray(pane), (x, y))
    return np.asarray(image)


def _left(names: Iterable[str], size: int) -> int:
    """Where the panes begin beside names in text of this size."""
    lines = [line for name in names for line in name.split("\n")]
    return size + round(max(_font(size).getlength(line) for line in lines)) + size * 2 // 3


def stacked(pictures: Sequence[Sequence[Picture]]) -> Picture:
    """Pictures in rows of several, on white, each at the top left of its place."""
    bands = []
    for row in pictures:
        height = max(p.shape[0] for p in row)
        bands.append(np.concatenate([_padded(p, height, p.shape[1]) for p in row], axis=1))
    width = max(band.shape[1] for band in bands)
    return np.concatenate([_padded(band, band.shape[0], width) for band in bands])


def _padded(picture: Picture, height: int, width: int) -> Picture:
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas
