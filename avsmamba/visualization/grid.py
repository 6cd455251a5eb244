"""Pictures in rows and columns, with names on the left, heads above, a title and a legend of classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from avsmamba.visualization.canvas import FAINT, INK, Picture, class_colour, font, shorten, text_size


class Layout:
    """Positions in a grid, pixels.

    Args:
        width: of a pane.
        heights: of the panes in each row, by the row's name.
    """

    def __init__(self, width: int, heights: Mapping[str, int]):
        self.size = self.margin = text_size(width)
        self.gap = max(4, self.size // 3)
        longest = max(font(self.size).getlength(line) for name in heights for line in name.split("\n"))
        self.left = self.margin + round(longest) + self.size * 2 // 3
        self.top = self.bottom = self.margin + round(self.size * 3.4)
        self.rows: dict[str, slice] = {}
        for name, height in heights.items():
            self.rows[name] = slice(self.bottom, self.bottom + height)
            self.bottom += height + self.gap
        self.bottom += self.margin - self.gap


def grid(
    rows: Mapping[str, Sequence[Picture]], title: str, heads: Sequence[str], classes: Mapping[int, str] | None = None
) -> Picture:
    """Draw rows of panes on white.

    Args:
        rows: panes `(h, w, 3)` RGB by the row's name, which may have several lines; all panes have one width, those of
            a row one height.
        title: the line at the top.
        heads: the text above each column.
        classes: names by index for a legend below; default: no legend.

    Returns:
        `(H, W, 3)` RGB.

    Raises:
        ValueError: if the number of panes or their sizes differ.
    """
    shapes = {pane.shape for panes in rows.values() for pane in panes}
    uneven = any(len({pane.shape for pane in panes}) != 1 or len(panes) != len(heads) for panes in rows.values())
    if uneven or len({shape[1] for shape in shapes}) != 1:
        raise ValueError(f"rows: expected {len(heads)} panes of one size in each row, got sizes {sorted(shapes)}")
    width = next(iter(shapes))[1]
    layout = Layout(width, {name: panes[0].shape[0] for name, panes in rows.items()})
    size, left = layout.size, layout.left
    xs = [left + column * (width + layout.gap) for column in range(len(heads))]
    image = Image.new("RGB", (xs[-1] + width + layout.margin, layout.bottom), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, layout.margin), shorten(title, image.width - left - size, size), INK, font(size, True), "la")
    for x, head in zip(xs, heads, strict=True):
        draw.text((x + width / 2, layout.top - size // 2), head, FAINT, font(size), "ms")
    for name, panes in rows.items():
        y = layout.rows[name]
        draw.text((left - size * 2 // 3, (y.start + y.stop) / 2), name, INK, font(size), "rm", align="right")
        for x, pane in zip(xs, panes, strict=True):
            image.paste(Image.fromarray(pane), (x, y.start))
    picture = np.asarray(image)
    return picture if classes is None else np.concatenate([picture, _legend(classes, image.width, layout)])


def _legend(names: Mapping[int, str], width: int, layout: Layout) -> Picture:
    """Draw colours and names in as many lines as they need."""
    size, line = layout.size, round(layout.size * 1.7)
    room = width - layout.left - layout.margin
    places, x, y = [], 0, 0
    for index, name in names.items():
        name = shorten(name, room - 2 * size, size)
        needed = 2 * size + round(font(size, True).getlength(name))
        if x and x + needed > room:
            x, y = 0, y + line
        places.append((x, y, index, name))
        x += needed + size
    image = Image.new("RGB", (width, (y + line if names else 0) + layout.margin), "white")
    draw = ImageDraw.Draw(image)
    for x, y, index, name in places:
        left, middle = layout.left + x, y + line // 2
        box = (left, middle - size // 2, left + size, middle + size // 2)
        draw.rectangle(box, class_colour(index), FAINT)
        draw.text((left + size * 3 // 2, middle), name, INK, font(size), "lm")
    return np.asarray(image)


def stacked(pictures: Sequence[Sequence[Picture]]) -> Picture:
    """Join rows of pictures on white; each picture is at the top left of its place."""
    bands = [
        np.concatenate([_padded(p, max(q.shape[0] for q in row), p.shape[1]) for p in row], axis=1) for row in pictures
    ]
    width = max(band.shape[1] for band in bands)
    return np.concatenate([_padded(band, band.shape[0], width) for band in bands])


def _padded(picture: Picture, height: int, width: int) -> Picture:
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=255)
