"""Loss and validation score of a training, read from its log and drawn."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from avsmamba.reports.scalars import read_records, scalar_files
from avsmamba.utils import UserError


@dataclass
class Curves:
    """A training by iteration.

    Attributes:
        loss: `(iteration, mean loss since the last one)`.
        score: `(iteration, M_J on the validation set)`.
        seconds: of training, validation not counted.
        waiting: share of `seconds` spent on waiting for data.
    """

    loss: list[tuple[int, float]] = field(default_factory=list)
    score: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def iterations(self) -> int:
        return self.loss[-1][0]


def read_curves(work_dir: Path, scored: bool = True) -> Curves:
    """Read `{work_dir}/{timestamp}/vis_data/scalars.json`; a resumed run has several, a later one takes precedence.

    Raises:
        UserError: if there is no such file, or it holds no loss or (where `scored`) no validation score.
    """
    records = read_records(work_dir)
    curves = Curves()
    before, waited = 0, 0.0
    for record in records:
        step = record["iter"]
        if "loss" in record:
            curves.loss.append((step, record["loss"]))
            curves.seconds += record.get("time", 0.0) * (step - before)
            waited += record.get("data_time", 0.0) * (step - before)
            before = step
        elif "M_J" in record:
            curves.score.append((step, record["M_J"]))
    for name, values in (("loss", curves.loss), ("M_J", curves.score)):
        if not values and (scored or name == "loss"):
            raise UserError(
                f"{scalar_files(work_dir)[-1]}: holds no {name!r}: the training or its validation has not reached it"
            )
    curves.waiting = waited / curves.seconds if curves.seconds else 0.0
    return curves


def draw_curve(points: Sequence[tuple[int, float]], label: str, colour: str, marks: bool) -> str:
    """Return an SVG image of one curve by iteration; with `marks`, points and the best one's value are shown."""
    steps, values = zip(*points, strict=True)
    # No date and fixed ids: the same run gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": label, "font.size": 11}):
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(
            steps, values, color=colour, linewidth=1.8, marker="o" if marks else None, markersize=5, clip_on=False
        )
        axes.set_title(label, loc="left", fontsize=12, color="#22262e")
        axes.set_xlabel("iteration", color="#5b6270")
        axes.set_xlim(0, max(steps))
        axes.set_ylim(0, 1 if marks else None)
        if marks:
            best = max(range(len(values)), key=values.__getitem__)
            axes.annotate(
                f"{values[best]:.3f}",
                (steps[best], values[best]),
                xytext=(0, 8),
                textcoords="offset points",
                ha="right" if best else "left",
                color="#22262e",
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#c3c8d1")
        axes.tick_params(colors="#5b6270", length=3)
        axes.grid(axis="y", color="#eceef2")
        axes.set_axisbelow(True)
        image = io.StringIO()
        figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()
