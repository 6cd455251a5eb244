"""The plot of the comparison: score over cost, a panel for each data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from avsmamba.utils import atomic_write

_DARK, _GREY, _BLUE = "#22262e", "#5b6270", "#2f6fb7"


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
    figure = Figure(figsize=(0.6 + 4.4 * len(panels), 4.2), layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for point in points:
            axes.vlines(point.cost, min(point.scores), max(point.scores), color=_BLUE, alpha=0.3)
            axes.plot([point.cost] * len(point.scores), point.scores, "o", color=_BLUE, alpha=0.75, markersize=5)
            axes.annotate(
                point.title,
                (point.cost, sum(point.scores) / len(point.scores)),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_DARK,
            )
        axes.set_title(title, loc="left", fontsize=10, color=_DARK)
        axes.set_xlabel(f"time of a training step, {unit} = 1", color=_GREY)
        axes.set_ylabel("M_J, percent", color=_GREY)
        axes.margins(x=0.25, y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_GREY, length=3)
        axes.grid(color="#eceef2")
        axes.set_axisbelow(True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
