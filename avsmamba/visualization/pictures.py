"""A clip as one picture: frames, sound, ground truth and prediction, one column a second."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from avsmamba.datasets.palette import PALETTE

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

# Frames narrower than this (pixels) are drawn a whole number of times larger.
_PANE_WIDTH = 176
# The colour scale of every strip: from ln(0.01), the log-mel of silence, to what only loud bands pass.
_LOG_MEL_RANGE = (float(np.log(0.01)), 3.0)
_INK: Colour = (34, 38, 46)
_FAINT: Colour = (110, 116, 128)
_TRUTH: Colour = (0, 200, 150)
_PREDICTION: Colour = (255, 150, 30)
# How much of the mask's colour lies over the frame; more where the colour tells a class.
_TINT, _CLASS_TINT = 0.22, 0.5


def clip_picture(
    frames: Picture,
    log_mel: NDArray[np.floating],
    gt_masks: NDArray[np.generic],
    prob: NDArray[np.floating],
    title: str,
    labelled: NDArray[np.bool_] | None = None,
) -> Picture:
    """Draw a clip of T frames as rows of T columns: frame, sound, truth, prediction.

    In the last two rows what sounds keeps its colours and an outline, the rest is dimmed.

    Args:
        frames: `(T, 3, H, W)` RGB in [0, 255].
        log_mel: `(T, 1, 96, 64)`, one patch a second: time, then mel bands from low to high.
        gt_masks: `(T, h, w)`, foreground where it is not 0.
        prob: `(T, h, w)` foreground probability; foreground where it is above 0.5.
        title: the line above the rows.
        labelled: `(T,)`, false where `gt_masks` is not known; default: all are.

    Returns:
        `(H', W', 3)` RGB.

    Raises:
        ValueError: naming the argument whose shape or type does not fit.
    """
    masks = [np.not_equal(gt_masks, 0), np.greater(prob, 0.5)]
    _check(frames, log_mel, gt_masks, prob, labelled)
    return _picture(frames, log_mel, masks, [lambda _: _TRUTH, lambda _: _PREDICTION], _TINT, title, labelled)


def semantic_picture(
    frames: Picture,
    log_mel: NDArray[np.floating],
    gt_masks: NDArray[np.generic],
    pred_labels: NDArray[np.generic],
    title: str,
    classes: Sequence[str] = (),
    labelled: NDArray[np.bool_] | None = None,
) -> Picture:
    """Draw a clip as `clip_picture` does, with each class in AVSBench's colour and a legend of those that are shown.

    Args:
        frames: `(T, 3, H, W)` RGB in [0, 255].
        log_mel: `(T, 1, 96, 64)`.
        gt_masks: `(T, h, w)` class indices, 0 for the background.
        pred_labels: `(T, h, w)` class indices.
        title: the line above the rows.
        classes: names by index; one without a name is called by its index.
        labelled: `(T,)`, false where `gt_masks` is not known; default: all are.

    Returns:
        `(H', W', 3)` RGB.

    Raises:
        ValueError: naming the argument whose shape or type does not fit.
    """
    _check(frames, log_mel, gt_masks, pred_labels, labelled, "pred_labels")
    picture = _picture(frames, log_mel, [gt_masks, pred_labels], [_class_colour] * 2, _CLASS_TINT, title, labelled)
    known = gt_masks if labelled is None else gt_masks[np.asarray(labelled, bool)]
    shown = [int(i) for i in np.union1d(known, pred_labels) if i]
    names = {i: classes[i] if i < len(classes) else f"class {i}" for i in shown}
    return np.concatenate([picture, _legend(names, picture.shape[1], _layout(*frames.shape[-2:]))])


def _picture(
    frames: Picture,
    log_mel: NDArray[np.floating],
    masks: Sequence[NDArray[np.generic]],
    colours: Sequence[Callable[[int], Colour]],
    tint: float,
    title: str,
    labelled: NDArray[np.bool_] | None,
) -> Picture:
    """The rows of a clip; truth and prediction as class indices, each with its colours by index."""
    layout = _layout(*frames.shape[-2:])
    size, (height, width) = layout.size, (frames.shape[-2] * layout.scale, frames.shape[-1] * layout.scale)
    known = [True] * len(frames) if labelled is None else labelled
    panes = [_resize(frame.transpose(1, 2, 0), width, height, cv2.INTER_CUBIC) for frame in frames]
    truth, prediction = (
        [_masked(pane, mask, colour, tint, size) for pane, mask in zip(panes, rows, strict=True)]
        for rows, colour in zip(masks, colours, strict=True)
    )
    rows = {
        "frame": panes,
        "sound": [_strip(patch[0], width, layout.height("sound")) for patch in log_mel],
        "truth": [
            row if is_known else _note(_dim(pane), "not labelled", size)
            for row, pane, is_known in zip(truth, panes, known, strict=True)
        ],
        "prediction": prediction,
    }
    return _compose(rows, title, layout)


def comparison(pictures: Mapping[str, Picture], frame_size: tuple[int, int], title: str) -> Picture:
    """Put pictures of one clip that were made with different sounds together: sound and prediction of each in turn.

    Args:
        pictures: what `clip_picture` made, by the words that stand above its rows; all of one size. Frames and truth
            are taken from the first.
        frame_size: (H, W) of the frames that they were made of, pixels.
        title: the line above the rows.

    Returns:
        `(H', W', 3)` RGB.

    Raises:
        ValueError: if the pictures differ in size, or are smaller than such frames need.
    """
    shapes = {picture.shape for picture in pictures.values()}
    layout = _layout(*frame_size)
    if len(shapes) != 1:
        raise ValueError(f"pictures: expected one size, got {sorted(shapes)}")
    if next(iter(shapes))[0] != layout.rows["prediction"][1] + layout.margin:
        raise ValueError(f"frame_size: {frame_size} does not go with pictures of {next(iter(shapes))}")
    first = next(iter(pictures.values()))
    width, size = first.shape[1], layout.size
    gap = np.full((layout.gap, width, 3), 255, np.uint8)

    def line(height: int, text: str) -> Picture:
        image = Image.new("RGB", (width, height), "white")
        text = _shortened(text, width - layout.left - layout.margin, size)
        ImageDraw.Draw(image).text((layout.left, layout.margin), text, _INK, _font(size, True), "la")
        return np.asarray(image)

    def row(picture: Picture, label: str) -> Picture:
        return picture[slice(*layout.rows[label])]

    # The seconds stand in the last lines above the frames.
    seconds = layout.top - round(size * 1.6)
    parts = [line(seconds, title), first[seconds : layout.top], row(first, "frame"), gap, row(first, "truth")]
    for words, picture in pictures.items():
        parts += [
            line(layout.margin + round(size * 1.7), words),
            row(picture, "sound"),
            gap,
            row(picture, "prediction"),
        ]
    return np.concatenate([*parts, np.full((layout.margin, width, 3), 255, np.uint8)])


class _Layout(NamedTuple):
    """Where things stand in a picture, pixels: `size` of the text, `rows` from the upper to below the lower line."""

    scale: int
    size: int
    gap: int
    margin: int
    left: int
    top: int
    rows: dict[str, tuple[int, int]]

    def height(self, row: str) -> int:
        return self.rows[row][1] - self.rows[row][0]


def _layout(height: int, width: int) -> _Layout:
    scale = max(1, -(-_PANE_WIDTH // width))
    height, width = height * scale, width * scale
    size = max(14, round(width / 13))
    gap, margin = max(4, size // 3), size
    heights = {"frame": height, "sound": max(64, height * 3 // 8), "truth": height, "prediction": height}
    left = margin + round(max(_font(size).getlength(label) for label in heights)) + size * 2 // 3
    y = top = margin + round(size * 3.4)
    rows = {}
    for label, pixels in heights.items():
        rows[label] = (y, y + pixels)
        y += pixels + gap
    return _Layout(scale, size, gap, margin, left, top, rows)


def _check(
    frames: NDArray[np.generic],
    log_mel: NDArray[np.generic],
    gt_masks: NDArray[np.generic],
    predicted: NDArray[np.generic],
    labelled: NDArray[np.bool_] | None,
    name: str = "prob",
) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames: expected (T, 3, H, W) uint8, got {frames.shape} {frames.dtype}")
    count = len(frames)
    if log_mel.shape != (count, 1, 96, 64):
        raise ValueError(f"log_mel: expected ({count}, 1, 96, 64) to go with the frames, got {log_mel.shape}")
    for key, masks in (("gt_masks", gt_masks), (name, predicted)):
        if masks.ndim != 3 or len(masks) != count or not masks.size:
            raise ValueError(f"{key}: expected ({count}, h, w) to go with the frames, got {masks.shape}")
    if labelled is not None and labelled.shape != (count,):
        raise ValueError(f"labelled: expected ({count},) to go with the frames, got {labelled.shape}")


def _resize(image: Picture, width: int, height: int, interpolation: int) -> Picture:
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation).astype(np.uint8)


def _strip(patch: NDArray[np.floating], width: int, height: int) -> Picture:
    """`(96, 64)` log-mel to colours: time to the right, low bands at the bottom."""
    low, high = _LOG_MEL_RANGE
    level = np.clip((np.nan_to_num(patch.T[::-1], nan=low) - low) / (high - low), 0, 1)
    colours = (matplotlib.colormaps["magma"](level)[..., :3] * 255).round().astype(np.uint8)
    return _resize(colours, width, height, cv2.INTER_LINEAR)


def _dim(pane: Picture) -> Picture:
    grey = pane @ np.array([0.299, 0.587, 0.114])
    return np.repeat((38 + 0.38 * grey)[..., None], 3, axis=2).astype(np.uint8)


def _masked(
    pane: Picture, mask: NDArray[np.generic], colour_of: Callable[[int], Colour], tint: float, size: int
) -> Picture:
    height, width = pane.shape[:2]
    inside = _resize(mask.astype(np.uint8), width, height, cv2.INTER_NEAREST)
    picture = _dim(pane)
    colours = {index: colour_of(index) for index in np.unique(inside).tolist() if index}
    for index, colour in colours.items():
        here = inside == index
        picture[here] = (1 - tint) * pane[here] + tint * np.array(colour)
    for index, colour in colours.items():
        outlines, _ = cv2.findContours((inside == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, max(2, width // 110), cv2.LINE_AA)
    return picture if mask.any() else _note(picture, "nothing sounds", size)


def _class_colour(index: int) -> Colour:
    red, green, blue = PALETTE[index].tolist()
    return red, green, blue


def _legend(names: Mapping[int, str], width: int, layout: _Layout) -> Picture:
    """A strip of colours and names, in as many lines as they need."""
    size, box, line = layout.size, layout.size, round(layout.size * 1.7)
    room = width - layout.left - layout.margin
    places, x, y = [], 0, 0
    for index, name in names.items():
        name = _shortened(name, room - 2 * box, size)
        needed = 2 * box + round(_font(size, True).getlength(name))
        if x and x + needed > room:
            x, y = 0, y + line
        places.append((x, y, index, name))
        x += needed + box
    image = Image.new("RGB", (width, (y + line if names else 0) + layout.margin), "white")
    draw = ImageDraw.Draw(image)
    for x, y, index, name in places:
        left, middle = layout.left + x, y + line // 2
        draw.rectangle((left, middle - box // 2, left + box, middle + box // 2), _class_colour(index), _FAINT)
        draw.text((left + box * 3 // 2, middle), name, _INK, _font(size), "lm")
    return np.asarray(image)


def _note(pane: Picture, text: str, size: int) -> Picture:
    image = Image.fromarray(pane)
    height, width = pane.shape[:2]
    ImageDraw.Draw(image).text((width / 2, height - size), text, (235, 238, 242), _font(size), anchor="mm")
    return np.asarray(image)


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along; OpenCV's own strokes are hard to read when small.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)


def _compose(rows: dict[str, list[Picture]], title: str, layout: _Layout) -> Picture:
    """Lay the rows out on white, with labels on the left, seconds above and the title on top."""
    size, left, margin = layout.size, layout.left, layout.margin
    width, count = rows["frame"][0].shape[1], len(rows["frame"])
    xs = [left + column * (width + layout.gap) for column in range(count)]
    image = Image.new("RGB", (xs[-1] + width + margin, layout.rows["prediction"][1] + margin), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, margin), _shortened(title, image.width - left - margin, size), _INK, _font(size, True), "la")
    for column, x in enumerate(xs):
        draw.text((x + width / 2, layout.top - size // 2), f"second {column + 1}", _FAINT, _font(size), "ms")
    for label, panes in rows.items():
        y = layout.rows[label][0]
        draw.text((left - size * 2 // 3, y + layout.height(label) / 2), label, _INK, _font(size), "rm")
        for x, pane in zip(xs, panes, strict=True):
            image.paste(Image.fromarray(pane), (x, y))
    return np.asarray(image)


def _shortened(title: str, width: int, size: int) -> str:
    if _font(size, True).getlength(title) <= width:
        return title
    while title and _font(size, True).getlength(title + "…") > width:
        title = title[:-1]
    return title + "…"
