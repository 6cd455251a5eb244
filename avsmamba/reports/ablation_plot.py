"""The plot of an ablation: every run a dot, beside what a paper prints."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from avsmamba.utils import atomic_write

_DARK, _GREY, _BLUE, _BAND = "#22262e", "#5b6270", "#2f6fb7", "#dfe9f5"


class Line(NamedTuple):
    """One variant: its runs' scores in percent, and the published one where there is one."""

    label: str
    scores: Sequence[float]
    published: float | None


def draw_lines(lines: Sequence[Line], path: str | Path) -> None:
    """Write a PNG picture: a line of dots for each variant; the first one's range is a band."""
    published = any(line.published is not None for line in lines)
    figure = Figure(figsize=(9.0 if published else 6.5, 1.2 + 0.3 * len(lines)), layout="constrained")
    axes = figure.subplots(1, 2 if published else 1, sharey=True, squeeze=False, width_ratios=(2, 1)[: 1 + published])
    here, *paper = axes[0]
    here.axvspan(min(lines[0].scores), max(lines[0].scores), color=_BAND)
    for place, line in enumerate(lines):
        here.plot(line.scores, [place] * len(line.scores), "o", color=_BLUE, alpha=0.75, markersize=5)
        here.plot([statistics.fmean(line.scores)], [place], "|", color=_DARK, markersize=13, markeredgewidth=1.8)
    here.set_yticks(range(len(lines)), [line.label for line in lines])
    here.set_ylim(len(lines) - 0.5, -0.5)
    title = "every run, mean, the first line's range"
    here.set_title(f"here: {title}" if published else title, loc="left", fontsize=10, color=_DARK)
    for other in paper:
        shown = [(line.published, place) for place, line in enumerate(lines) if line.published is not None]
        other.plot(*zip(*shown, strict=True), "D", color=_GREY, markersize=5)
        if lines[0].published is not None:
            other.axvline(lines[0].published, color=_BAND, linewidth=3, zorder=0)
        other.set_title("paper, MS3", loc="left", fontsize=10, color=_DARK)
    for panel in axes[0]:
        panel.set_xlabel("M_J, percent", color=_GREY)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=_GREY, length=3)
        panel.grid(color="#eceef2")
        panel.set_axisbelow(True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
