"""The results of an ablation as the paper's tables, CSV, JSON, a plot, and the generated part of a page."""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from avsmamba.reports.ablation_plot import Line, draw_lines
from avsmamba.reports.pages import markers, render, replace_generated
from avsmamba.reports.paper_tables import FULL, Ablations, Row
from avsmamba.utils import UserError, atomic_write

Result = Mapping[str, Any]

COMMAND = "tools/ablate.py"
BEGIN, END = markers(COMMAND)
SOUNDS = {"shuffle": "another clip's sound", "silence": "silence", "noise": "noise"}


@dataclass(frozen=True)
class VariantStats:
    """All runs of one config: scores in percent of the frame protocol, loss, seconds of training; a value a seed."""

    config: str
    seeds: tuple[int, ...]
    M_J: tuple[float, ...]
    M_F: tuple[float, ...]
    other_M_J: dict[str, tuple[float, ...]]
    loss: tuple[float, ...]
    seconds: tuple[float, ...]
    parameters: int


def gather(results: Iterable[Result]) -> list[VariantStats]:
    """Group results by config, in order of first appearance."""
    by_config: dict[str, list[Result]] = {}
    for result in results:
        by_config.setdefault(result["config"], []).append(result)
    return [_stats(name, sorted(group, key=lambda r: r["seed"])) for name, group in by_config.items()]


def _stats(name: str, group: list[Result]) -> VariantStats:
    def scores(sound: str, key: str) -> tuple[float, ...]:
        return tuple(round(100 * r["scores"][sound]["frame"][key], 2) for r in group)

    others = [s for s in group[0]["scores"] if s != "real" and all(s in r["scores"] for r in group)]
    return VariantStats(
        name,
        tuple(r["seed"] for r in group),
        scores("real", "M_J"),
        scores("real", "M_F"),
        {sound: scores(sound, "M_J") for sound in others},
        tuple(round(r["loss"], 4) for r in group),
        tuple(r["train_seconds"] for r in group),
        group[0]["parameters"],
    )


def spread(values: Sequence[float]) -> str:
    """Write mean and sample standard deviation, `91.4 ± 0.3`; the mean alone for one value."""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def against(values: Sequence[float], full: Sequence[float]) -> str:
    """Compare a variant's M_J with the full model's: 'lower', 'higher', or 'within the spread'."""
    if max(values) < min(full):
        return "lower"
    return "higher" if min(values) > max(full) else "within the spread"


def verdict(relation: str, row: Row, ours: Row) -> str:
    """Return `relation`, and whether the paper's figures for MS3 have it too."""
    paper = row.ms3[0] - ours.ms3[0]
    if relation == "within the spread" or not paper:
        return relation
    return f"{relation}, {'as in the paper' if (paper < 0) == (relation == 'lower') else 'unlike the paper'}"


def markdown(figures: Sequence[VariantStats], failed: Mapping[str, str], ablations: Ablations) -> str:
    """Return the tables in Markdown, grouped as in the paper, and the runs that failed."""
    known = {ablations.variant(f.config): f for f in figures}
    shown = {n: (title, [r for r in rows if r.variant in known]) for n, (title, rows) in ablations.tables.items()}
    tables = [(n, title, rows) for n, (title, rows) in shown.items() if any(r.variant != FULL for r in rows)]
    named = {row.variant for _, _, rows in tables for row in rows}

    def note(row: Row) -> str:
        if FULL not in known or row.variant == FULL:
            return "–"
        scores, full = known[row.variant].M_J, known[FULL].M_J
        relation = verdict(against(scores, full), row, ablations.full)
        return f"{statistics.fmean(scores) - statistics.fmean(full):+.1f}: {relation}"

    text = render(
        "ablation_tables.md.j2",
        known=known,
        tables=tables,
        others=[f for variant, f in known.items() if variant not in named],
        failed=failed,
        sounds=_common_sounds(figures),
        words=SOUNDS,
        note=note,
        spread=spread,
        mean=statistics.fmean,
    )
    return text.rstrip() + "\n"


def _common_sounds(figures: Iterable[VariantStats]) -> list[str]:
    return list(dict.fromkeys(sound for f in figures for sound in f.other_M_J))


def comma_separated(figures: Sequence[VariantStats]) -> str:
    """Return CSV with one line for each run."""
    sounds = _common_sounds(figures)
    rows: list[Any] = [["config", "seed", "M_J", "M_F", *(f"M_J_{s}" for s in sounds), "loss", "train_seconds"]]
    for f in figures:
        others = [f.other_M_J.get(s, [""] * len(f.seeds)) for s in sounds]
        rows += zip([f.config] * len(f.seeds), f.seeds, f.M_J, f.M_F, *others, f.loss, f.seconds, strict=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def plot_lines(figures: Sequence[VariantStats], ablations: Ablations) -> list[Line]:
    """Return the lines of the plot: the whole model, then each config at the first table of the paper that has it."""
    known = {ablations.variant(f.config): f for f in figures}
    lines: dict[str, Line] = {}
    for number, (_, rows) in ablations.tables.items():
        for row in rows:
            if row.variant in known:
                label = "whole model" if row.variant == FULL else f"{number}  {row.label_in(number)}"
                lines.setdefault(row.variant, Line(label, known[row.variant].M_J, row.ms3[0]))
    others = {variant: Line(f.config, f.M_J, None) for variant, f in known.items() if variant not in lines}
    return [line for _, line in sorted((lines | others).items(), key=lambda item: item[0] != FULL)]


def write_tables(
    results: Sequence[Result], failed: Mapping[str, str], work_dir: str | Path, ablations: Ablations
) -> str:
    """Write `ablation.{md,csv,json,png}` into `work_dir` and return the tables' text.

    Raises:
        UserError: if nothing is finished.
    """
    if not results:
        first = next((f"; the first that failed: {name}: {reason}" for name, reason in failed.items()), "")
        raise UserError(f"{work_dir}: no run is finished{first}")
    folder, figures = Path(work_dir), gather(results)
    text = markdown(figures, failed, ablations)
    _write(folder / "ablation.md", text)
    _write(folder / "ablation.csv", comma_separated(figures))
    _write(folder / "ablation.json", record(results))
    draw_lines(plot_lines(figures, ablations), folder / "ablation.png")
    return text


def record(results: Sequence[Result]) -> str:
    """Return JSON with what a page is written from: the runs' scores, device, versions and commit."""
    kept = ("config", "seed", "parameters", "iterations", "loss", "train_seconds")
    runs = [
        {k: r[k] for k in kept}
        | {"scores": {s: {"clips": m["clips"], "frame": m["frame"]} for s, m in r["scores"].items()}}
        for r in results
    ]
    env = {k: sorted({str(r["env"].get(k)) for r in results}) for k in ("device", "threads", "torch", "commit")}
    # One run a line, so that a diff shows the run that changed.
    lines = ",\n".join("  " + json.dumps(r) for r in runs)
    return f'{{"env": {json.dumps(env)},\n "runs": [\n{lines}\n]}}\n'


def write_page(results: Sequence[Result], page: str | Path, ablations: Ablations) -> None:
    """Write the generated part of `page`; its plot goes to `images/` and the figures to a `.json`, both beside it.

    The text before and after the two markers is kept; a page that does not exist is created.
    """
    page = Path(page)
    text = record(results)
    _write(page.with_suffix(".json"), text)
    picture = page.parent / "images" / f"{page.stem}.png"
    draw_lines(plot_lines(gather(results), ablations), picture)
    old = page.read_text(encoding="utf-8") if page.is_file() else f"# Ablations\n\n{BEGIN}\n{END}\n"
    _write(page, fill_page(old, json.loads(text), f"images/{picture.name}", str(page), ablations))


def fill_page(old: str, recorded: Mapping[str, Any], picture: str, name: str, ablations: Ablations) -> str:
    """Return `old` with its generated part written again from the output of `record`.

    Raises:
        UserError: if the page `name` does not have the two markers once each, in order.
    """
    return replace_generated(old, COMMAND, _generated(recorded, picture, ablations), name)


def _generated(recorded: Mapping[str, Any], picture: str, ablations: Ablations) -> str:
    runs, figures = recorded["runs"], gather(recorded["runs"])
    count = max(len(f.seeds) for f in figures)
    return render(
        "ablation_page.md.j2",
        runs=runs,
        configs=len(figures),
        count=count,
        iterations=sorted({r["iterations"] for r in runs}),
        clips=sorted({r["scores"]["real"]["clips"] for r in runs}),
        seconds=statistics.median(r["train_seconds"] for r in runs),
        env=recorded["env"],
        chance=100 * 2 / comb(2 * count, count),
        picture=picture,
        tables=markdown(figures, {}, ablations),
    )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
