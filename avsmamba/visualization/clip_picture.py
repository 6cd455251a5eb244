"""A clip as one picture: frames, sound, ground truth and prediction, one column a second."""

from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from avsmamba.visualization.canvas import (
    INK,
    PREDICTION,
    TRUTH,
    Picture,
    class_name,
    dim,
    draw_masks,
    font,
    resize,
    shorten,
    write_note,
)
from avsmamba.visualization.grid import Layout, grid

# Narrower frames (pixels) are enlarged by a whole number.
_PANE_WIDTH = 176
# The colour scale of every strip: from ln(0.01), the log-mel of silence, to what only loud bands exceed.
_LOG_MEL_RANGE = (float(np.log(0.01)), 3.0)


def clip_picture(
    frames: Picture,
    log_mel: NDArray[np.floating],
    gt_masks: NDArray[np.generic],
    predicted: NDArray[np.generic],
    title: str,
    labelled: NDArray[np.bool_] | None = None,
    classes: Sequence[str] | None = None,
) -> Picture:
    """Draw a clip of T frames as rows of T columns: frame, sound, truth, prediction.

    In the last two rows what sounds keeps its colours and has an outline; the rest is dimmed.

    Args:
        frames: `(T, 3, H, W)` RGB in [0, 255].
        log_mel: `(T, 1, 96, 64)`, one patch a second: time, then mel bands from low to high.
        gt_masks: `(T, h, w)`, not 0 in the foreground.
        predicted: `(T, h, w)`, not 0 in the foreground.
        title: the line above the rows.
        labelled: `(T,)`, false where `gt_masks` is not known; default: all are.
        classes: names by index, possibly none: both masks hold class indices, each class has AVSBench's colour, and a
            legend shows the classes that occur. Default: one foreground.

    Returns:
        `(H', W', 3)` RGB.

    Raises:
        ValueError: naming the argument whose shape or type does not fit.
    """
    _check(frames, log_mel, gt_masks, predicted, labelled)
    semantic, known = classes is not None, np.ones(len(frames), bool) if labelled is None else labelled
    panes = panes_of(frames)
    height, width = panes[0].shape[:2]
    rows = {
        "frame": panes,
        "sound": [_strip(patch[0], width, _row_heights(height)["sound"]) for patch in log_mel],
        "truth": truths(panes, gt_masks, known, semantic),
        "prediction": masked(panes, predicted, False, semantic),
    }
    names = None if classes is None else legend_names(classes, gt_masks[known], predicted)
    return grid(rows, title, [f"second {t + 1}" for t in range(len(frames))], names)


def panes_of(frames: Picture) -> list[Picture]:
    """Convert `(T, 3, H, W)` frames to T panes `(H', W', 3)`; narrow ones are enlarged by a whole number."""
    height, width = _pane_size(*frames.shape[-2:])
    return [resize(frame.transpose(1, 2, 0), width, height, cv2.INTER_CUBIC) for frame in frames]


def masked(panes: Sequence[Picture], masks: NDArray[np.generic], truth: bool, semantic: bool = False) -> list[Picture]:
    """Draw `(T, h, w)` masks on panes; semantic ones hold class indices. See `draw_masks`."""
    colour = None if semantic else TRUTH if truth else PREDICTION
    return [draw_masks(pane, mask, colour) for pane, mask in zip(panes, masks, strict=True)]


def truths(
    panes: Sequence[Picture], masks: NDArray[np.generic], labelled: NDArray[np.bool_], semantic: bool = False
) -> list[Picture]:
    """Draw true masks with `masked`; a pane where `labelled` `(T,)` is false says that its mask is not known."""
    return [
        row if known else write_note(dim(pane), "not labelled")
        for row, pane, known in zip(masked(panes, masks, True, semantic), panes, labelled, strict=True)
    ]


def legend_names(classes: Sequence[str], *masks: NDArray[np.generic]) -> dict[int, str]:
    """Return the names of the classes that occur in masks, by index, without the background."""
    shown = sorted({int(index) for mask in masks for index in np.unique(mask)} - {0})
    return {index: class_name(index, classes) for index in shown}


def comparison(pictures: Mapping[str, Picture], frame_size: tuple[int, int], title: str) -> Picture:
    """Join pictures of one clip with different sounds: sound and prediction of each in turn.

    Args:
        pictures: from `clip_picture`, all of one size, by the text above their rows. Frames and truth are taken from
            the first.
        frame_size: (H, W) of their frames, pixels.
        title: the line above the rows.

    Returns:
        `(H', W', 3)` RGB.

    Raises:
        ValueError: if the pictures differ in size, or do not match the size of the frames.
    """
    shapes = {picture.shape for picture in pictures.values()}
    if len(shapes) != 1:
        raise ValueError(f"pictures: expected one size, got {sorted(shapes)}")
    pane_height, pane_width = _pane_size(*frame_size)
    layout = Layout(pane_width, _row_heights(pane_height))
    first = next(iter(pictures.values()))
    height, width, _ = first.shape
    if height != layout.bottom:
        raise ValueError(f"frame_size: {frame_size} does not match pictures of {first.shape}")
    size, rows = layout.size, layout.rows
    gap, margin = (np.full((pixels, width, 3), 255, np.uint8) for pixels in (layout.gap, layout.margin))

    def line(height: int, text: str) -> Picture:
        image = Image.new("RGB", (width, height), "white")
        text = shorten(text, width - layout.left - layout.margin, size)
        ImageDraw.Draw(image).text((layout.left, layout.margin), text, INK, font(size, True), "la")
        return np.asarray(image)

    # The seconds are in the last lines above the frames.
    seconds = layout.top - round(size * 1.6)
    parts = [line(seconds, title), first[seconds : rows["frame"].stop], gap, first[rows["truth"]]]
    for text, picture in pictures.items():
        heading = line(layout.margin + round(size * 1.7), text)
        parts += [heading, picture[rows["sound"]], gap, picture[rows["prediction"]]]
    return np.concatenate([*parts, margin])


def _pane_size(height: int, width: int) -> tuple[int, int]:
    scale = max(1, -(-_PANE_WIDTH // width))
    return height * scale, width * scale


def _row_heights(pane: int) -> dict[str, int]:
    return {"frame": pane, "sound": max(64, pane * 3 // 8), "truth": pane, "prediction": pane}


def _check(
    frames: NDArray[np.generic],
    log_mel: NDArray[np.generic],
    gt_masks: NDArray[np.generic],
    predicted: NDArray[np.generic],
    labelled: NDArray[np.bool_] | None,
) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames: expected (T, 3, H, W) uint8, got {frames.shape} {frames.dtype}")
    count = len(frames)
    if log_mel.shape != (count, 1, 96, 64):
        raise ValueError(f"log_mel: expected ({count}, 1, 96, 64) to match the frames, got {log_mel.shape}")
    for key, masks in (("gt_masks", gt_masks), ("predicted", predicted)):
        if masks.ndim != 3 or len(masks) != count or not masks.size:
            raise ValueError(f"{key}: expected ({count}, h, w) to match the frames, got {masks.shape}")
    if labelled is not None and labelled.shape != (count,):
        raise ValueError(f"labelled: expected ({count},) to match the frames, got {labelled.shape}")


def _strip(patch: NDArray[np.floating], width: int, height: int) -> Picture:
    """Draw a `(96, 64)` log-mel patch: time to the right, low bands at the bottom."""
    low, high = _LOG_MEL_RANGE
    level = np.clip((np.nan_to_num(patch.T[::-1], nan=low) - low) / (high - low), 0, 1)
    colours = (matplotlib.colormaps["magma"](level)[..., :3] * 255).round().astype(np.uint8)
    return resize(colours, width, height, cv2.INTER_LINEAR)
