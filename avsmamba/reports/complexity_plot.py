"""Plot the costs of models by resolution (Fig. 10, a to c)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_PANELS = (("peak_GB", "peak memory, GB"), ("GFLOP", "GFLOP"), ("seconds", "seconds"))
_COLOURS = ("#3b6fd4", "#d9731a", "#2a9d6f", "#b3408c", "#6b7280", "#c2a300", "#7a5af0", "#d04545")


def draw_complexity(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw memory, operations and time, a line for each model; bars if there is one size.

    Args:
        rows: mappings with `model`, `size` (pixels), `peak_GB`, `GFLOP` and `seconds`.
        path: PNG file.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    sizes = sorted({row["size"] for row in rows})
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for i, model in enumerate(models):
            colour = _COLOURS[i % len(_COLOURS)]
            points = sorted((row["size"], row[key]) for row in rows if row["model"] == model)
            if len(sizes) == 1:
                bar = axes.bar(i, points[0][1], color=colour, label=model)
                axes.bar_label(bar, fmt="%.3g", fontsize=9, color="#22262e")
            else:
                axes.plot(*zip(*points, strict=True), color=colour, marker="o", linewidth=1.8, label=model)
        axes.set_xticks([] if len(sizes) == 1 else sizes)
        axes.set_xlabel(f"frames of {sizes[0]} x {sizes[0]} pixels" if len(sizes) == 1 else "frame size, pixels")
        axes.set_title(title, loc="left", fontsize=12, color="#22262e")
        axes.set_ylim(bottom=0)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#c3c8d1")
        axes.tick_params(colors="#5b6270", length=3)
        axes.grid(axis="y", color="#eceef2")
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(models)), frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
