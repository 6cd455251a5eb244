"""The plot of the comparison: score over cost, a panel for each data set."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from avsmamba.utils import atomic_write

_DARK, _GREY = "#22262e", "#5b6270"
_COLORS = [*matplotlib.color_sequences["tab10"], _DARK]


class Point(NamedTuple):
    """A method: its title, cost (time of a step as a ratio), and the scores of its runs in percent."""

    title: str
    cost: float
    scores: Sequence[float]


def draw_scores_over_cost(panels: Mapping[str, Sequence[Point]], unit: str, path: str | Path) -> None:
    """Write a PNG picture: every run a dot, with a bar from the lowest to the highest of a method.

    Args:
        panels: points by the title of the data set.
        unit: title of the method whose step is 1.
        path: of the picture.
    """
    titles = dict.fromkeys(point.title for points in panels.values() for point in points)
    colors = dict(zip(titles, cycle(_COLORS), strict=False))
    figure = Figure(figsize=(0.6 + 4.4 * len(panels), 4.2), layout="constrained")
    drawn = [*zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)]
    for axes, (title, points) in drawn:
        for point in points:
            color = colors[point.title]
            axes.vlines(point.cost, min(point.scores), max(point.scores), color=color, alpha=0.4)
            axes.plot([point.cost] * len(point.scores), point.scores, "o", color=color, alpha=0.8, markersize=5)
        axes.set_title(title, loc="left", fontsize=10, color=_DARK)
        axes.set_xlabel(f"time of a training step, {unit} = 1", color=_GREY)
        axes.set_ylabel("M_J, percent", color=_GREY)
        axes.margins(x=0.25, y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_GREY, length=3)
        axes.grid(color="#eceef2")
        axes.set_axisbelow(True)
    figure.draw_without_rendering()  # the layout, on which the places of the labels depend
    for axes, (_, points) in drawn:
        _label(axes, points, colors)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _label(axes: Axes, points: Sequence[Point], colors: Mapping[str, Any]) -> None:
    """Write each title beside its method, at the nearest place where it covers nothing."""
    pixels = axes.figure.dpi / 72  # of a typographic point
    taken = []
    for point in points:
        ends = [(point.cost, min(point.scores)), (point.cost, max(point.scores))]
        taken.append(Bbox(axes.transData.transform(ends)).padded(3 * pixels))
    for point in sorted(points, key=lambda p: -fmean(p.scores)):
        label = axes.annotate(
            textwrap.fill(point.title, 14),
            (point.cost, fmean(point.scores)),
            textcoords="offset points",
            xytext=(6, 0),
            va="center",
            fontsize=8,
            color=colors[point.title],
        )
        # The nearest first; the first place of all if none is free.
        for up, side in [*sorted(product(range(-60, 61, 5), ("left", "right")), key=lambda p: abs(p[0])), (0, "left")]:
            label.set(ha=side, position=(6 if side == "left" else -6, up))
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in taken) and axes.bbox.x0 < box.x0:
                break
        taken.append(box)
