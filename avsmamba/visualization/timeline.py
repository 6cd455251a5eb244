"""The sound's level over how much of the picture sounds, by class, along a video."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from avsmamba.utils import UserError, atomic_write
from avsmamba.visualization.canvas import resize
from avsmamba.visualization.overlay import Overlay, class_colour, class_name

if TYPE_CHECKING:
    from avsmamba.inference.prediction import Prediction

Values = Sequence[float] | NDArray[np.float64]
_DARK, _GREY, _SOUND = "#22262e", "#5b6270", "#2f6fb7"
_MOST = 10  # classes that are named; the rest is drawn as one
_FLOOR = -80.0  # dB; what is softer is drawn as silence


def draw_timeline(
    path: str | Path,
    times: Values,
    levels: Values,
    shares: Mapping[int, Values],
    classes: Sequence[str],
    fps: float,
    title: str = "",
) -> None:
    """Write the timeline as a PNG picture.

    Args:
        path: the file.
        times: `(T,)` of the predicted frames, s.
        levels: `(T,)` of the sound, dB of full scale.
        shares: of the picture that sounds, `(T,)` in [0, 1], by class index.
        classes: names by index, the background first, or the one class.
        fps: predicted frames a second; each is shown until the next one.
        title: the line above.

    Raises:
        UserError: if the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_DARK)
    fill_timeline(figure.subplots(2, 1, sharex=True), times, levels, shares, classes, fps)
    try:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def fill_timeline(
    axes: Any,
    times: Values,
    levels: Values,
    shares: Mapping[int, Values],
    classes: Sequence[str],
    fps: float,
) -> None:
    """Draw level and shares on two axes; see `draw_timeline`."""
    edges = np.append(times, times[-1] + 1 / fps)
    sound, picture = axes
    steps = {"step": "post", "linewidth": 0}
    sound.fill_between(edges, _FLOOR, np.maximum(_held(levels), _FLOOR), color=_SOUND, **steps)
    sound.set_ylim(_FLOOR, 0)
    sound.set_ylabel("sound, dB", color=_GREY)
    below = np.zeros(len(edges))
    for share, colour, label in _bands(shares, classes):
        above = below + 100 * _held(share)
        picture.fill_between(edges, below, above, color=colour, label=label, **steps)
        below = above
    picture.set_ylim(0, max(1.0, 1.08 * float(below.max())))
    picture.set_ylabel("sounding, % of picture", color=_GREY)
    picture.set_xlim(edges[0], edges[-1])
    picture.xaxis.set_major_formatter(FuncFormatter(_clock))
    if len(classes) > 1 and shares:
        picture.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=_GREY, length=3)
        panel.grid(color="#eceef2")
        panel.set_axisbelow(True)


def _bands(shares: Mapping[int, Values], classes: Sequence[str]) -> list[tuple[Any, Any, str]]:
    """Share, colour and name of each class; of many classes those that sound most, and the sum of the rest."""
    order = sorted(shares, key=lambda i: (-float(np.sum(shares[i])), i))
    kept = order if len(order) <= _MOST else order[: _MOST - 1]
    bands: list[tuple[Any, Any, str]] = []
    for index in kept:
        colour = np.array(class_colour(index, len(classes))) / 255
        bands.append((shares[index], colour, class_name(index, classes)))
    if len(kept) < len(order):
        rest = np.array([shares[i] for i in order[len(kept) :]]).sum(axis=0)
        bands.append((rest, "#b4b9c2", f"{len(order) - len(kept)} more"))
    return bands


def _held(values: Values) -> NDArray[np.float64]:
    """The last value once more: it is shown until the end."""
    return np.append(np.asarray(values, np.float64), values[-1])


def _clock(seconds: float, _: Any = None) -> str:
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{minutes}:{int(rest):02d}" if not hours else f"{hours}:{minutes:02d}:{int(rest):02d}"
    return text if float(rest).is_integer() else f"{text}{rest % 1:.3f}".replace("0.", ".").rstrip("0")


def prediction_figure(prediction: "Prediction", most: int) -> Figure:
    """Some frames of a prediction over its timeline; see `Prediction.plot`.

    Raises:
        ValueError: if `most` is not positive.
    """
    if most < 1:
        raise ValueError(f"most: expected at least 1 frame, got {most}")
    count = min(most, len(prediction))
    places = [i * len(prediction) // count for i in range(count)]
    figure = Figure(figsize=(11, 6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    upper, lower = parts
    shares: dict[int, NDArray[np.float64]] = {}
    for frame in prediction.frames():
        masks = frame.by_class(prediction.cutoff)
        for index, mask in masks.items():
            shares.setdefault(index, np.zeros(len(prediction)))[frame.index] = mask.mean()
    for frame, axes in zip(
        (f for f in prediction.frames() if f.index in places), upper.subplots(1, count, squeeze=False)[0], strict=True
    ):
        height, width = frame.picture.shape[:2]
        masks = {
            index: resize(mask.astype(np.uint8), width, height, cv2.INTER_NEAREST) > 0
            for index, mask in frame.by_class(prediction.cutoff).items()
        }
        axes.imshow(Overlay(masks, prediction.classes, (height, width)).draw(frame.picture))
        axes.set_title(f"{frame.time:.3g} s", fontsize=9, color=_GREY)
        axes.set_axis_off()
    times, levels = prediction.times.tolist(), prediction.levels.tolist()
    fill_timeline(lower.subplots(2, 1, sharex=True), times, levels, shares, prediction.classes, prediction.fps)
    return figure
