"""Loss and validation score of a training, read from its log and drawn."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from avsmamba.utils import UserError

_SCALARS = "*/vis_data/scalars.json"


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
    files = sorted(work_dir.glob(_SCALARS))
    if not files:
        raise UserError(f"{work_dir / _SCALARS}: no such file; train with the LocalVisBackend first")
    records: list[dict[str, Any]] = []
    for file in files:
        new = _read(file)
        first = min((r["step"] for r in new), default=None)
        records = [r for r in records if first is None or r["step"] < first] + new
    curves = Curves()
    before, waited = 0, 0.0
    for record in records:
        step = record["step"]
        if "loss" in record:
            curves.loss.append((step, record["loss"]))
            curves.seconds += record.get("time", 0.0) * (step - before)
            waited += record.get("data_time", 0.0) * (step - before)
            before = step
        elif "M_J" in record:
            # A training that counts epochs logs its scores by epoch.
            epochs = [r for r in records if r.get("epoch") == step]
            curves.score.append((epochs[-1]["step"] if epochs else step, record["M_J"]))
    for name, values in (("loss", curves.loss), ("M_J", curves.score)):
        if not values and (scored or name == "loss"):
            raise UserError(f"{files[-1]}: holds no {name!r}: the training or its validation has not reached it")
    curves.waiting = waited / curves.seconds if curves.seconds else 0.0
    return curves


def _read(file: Path) -> list[dict[str, Any]]:
    """Read the records of one log; the last line of a run that was killed may be incomplete."""
    lines = file.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["step"] += 0
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise UserError(f"{file}: line {number}: expected a JSON object with a number 'step'") from None
        records.append(record)
    return records


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
