"""The tables and the plot of the comparison of methods, and the generated part of docs/comparison.md."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from avsmamba.markdown import table
from avsmamba.reports.ablation_page import spread
from avsmamba.reports.comparison import Comparison, Record, Records, learning_rate, tasks
from avsmamba.reports.comparison_cost import current_costs
from avsmamba.reports.comparison_plot import Point, draw_scores_over_cost
from avsmamba.reports.pages import markers, replace_generated
from avsmamba.utils import atomic_write

COMMAND = "avsmamba compare"
SOUNDS = {"silence": "silence", "noise": "noise", "shuffle": "another clip's", "swap": "of another kind"}
NOTHING = "–"


class Results:
    """The finished runs of a comparison whose configs have not changed.

    Attributes:
        runs: records by method and data set, in the order of the seeds; without trials.
        trials: record, or None where it is missing, by method and learning rate.
        rates: chosen learning rate by method, None if it is not known yet.
        costs: by method and subset, see `measure_costs`.
        planned: number of trainings.
    """

    def __init__(self, comparison: Comparison, records: Records) -> None:
        self.comparison = comparison
        self.rates = {m: learning_rate(comparison, records, m) for m in comparison.methods}
        self.costs = current_costs(comparison, records.folder)
        self.runs: dict[tuple[str, str], list[Record]] = {}
        self.trials: dict[tuple[str, float], Record | None] = {}
        planned = tasks(comparison, records, comparison.methods)
        self.planned = len(planned)
        for task in planned:
            record = records.find(task)
            if task.trial:
                assert task.lr is not None
                self.trials[task.method, task.lr] = record
            elif record is not None:
                self.runs.setdefault((task.method, task.data), []).append(record)

    @property
    def records(self) -> list[Record]:
        """All finished trainings, trials included."""
        runs = [record for group in self.runs.values() for record in group]
        return runs + [record for record in self.trials.values() if record is not None]

    def values(self, method: str, data: str, sound: str, key: str) -> list[float]:
        """Return a score of each seed in percent; `key` is M_J, M_F or foreground. Diverged runs have none."""
        runs = self.runs.get((method, data), ())
        return [100 * r["scores"][sound][key] for r in runs if r["scores"].get(sound, {}).get(key) is not None]

    def cell(self, method: str, data: str, sound: str, key: str) -> str:
        """Write a score: mean ± sample standard deviation, and the number of runs if some are missing."""
        values = self.values(method, data, sound, key)
        missing = len(values) < len(self.comparison.seeds)
        return (spread(values) + (f" (n = {len(values)})" if missing else "")) if values else NOTHING

    def title(self, method: str) -> str:
        """Return the title of a method."""
        return self.comparison.methods[method].title


def summary(comparison: Comparison, records: Records) -> str:
    """Return the tables as text for the terminal and the page."""
    results = Results(comparison, records)
    parts = [
        _overview(results),
        "### Scores",
        _scores(results),
        "### Costs",
        _costs(results),
        "### Wrong sounds",
        "M_J against the clip's own masks, and the share of pixels that are marked. A model that listens marks little "
        "for silence and noise, and its M_J is low. The share with the real sound is for comparison.",
        *(f"**{data.title}**\n\n{_wrong_sounds(results, name)}" for name, data in comparison.data.items()),
        "### Learning rates",
        f"M_J on the validation clips of {comparison.data[comparison.trials.data].title} after "
        f"{comparison.trials.iterations} iterations with seed {comparison.trials.seed}; the best one is bold.",
        _trials(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(results: Results) -> str:
    comparison, records = results.comparison, results.records
    data = ", ".join(
        f"{d.iterations} on {d.title} ({d.splits.get('train', 0)} training clips, {d.splits.get('test', 0)} test clips)"
        for d in comparison.data.values()
    )
    text = (
        f"{len(records)} of {results.planned} trainings are finished. Iterations: {data}. Scores are M_J and M_F of "
        "the frame protocol in percent with the weights of the last iteration: mean ± sample standard deviation over "
        f"the seeds {', '.join(map(str, comparison.seeds))}; n is the number of runs where some are missing."
    )
    if records:
        text += f" torch {_distinct(records, 'torch')}, {_distinct(records, 'machine')}, one thread a run, commits "
        text += f"{_distinct(records, 'commit')}."
    return text


def _distinct(records: Iterable[Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(r.get(key)) for r in records}))


def _scores(results: Results) -> str:
    data, methods = results.comparison.data, results.comparison.methods
    head = ["method", *(f"{d.title}, {key}" for d in data.values() for key in ("M_J", "M_F"))]
    rows = [[results.title(m), *(results.cell(m, d, "real", k) for d in data for k in ("M_J", "M_F"))] for m in methods]
    text = table(head, rows, "l" + "r" * (len(head) - 1))
    diverged = [
        f"{results.title(m)} on {data[d].title}, seed {r['seed']}"
        for (m, d), group in results.runs.items()
        for r in group
        if "diverged" in r
    ]
    return text + (f"\n\nNot finite at some step, and without scores: {'; '.join(diverged)}." if diverged else "")


def _costs(results: Results) -> str:
    comparison = results.comparison
    subsets = list(dict.fromkeys(d.subset for d in comparison.data.values()))
    first = results.title(next(iter(comparison.methods)))
    head = ["method", "lr", "parameters, M"]
    for subset in subsets:
        head += [f"{subset.upper()}: s a step", f"{first} = 1", "memory, GB"]
    rows = []
    for method in comparison.methods:
        found = results.costs.get(method, {})
        counts = [c["parameters"] for c in found.values()] + [
            r["parameters"] for d in comparison.data for r in results.runs.get((method, d), ())
        ]
        rate = results.rates[method]
        row = [results.title(method), NOTHING if rate is None else f"{rate:g}"]
        row.append(f"{counts[0] / 1e6:.2f}" if counts else NOTHING)
        for subset in subsets:
            c = found.get(subset)
            row += [f"{c['seconds']:.3f}", f"{c['ratio']:.2f}", f"{c['peak_GB']:.2f}"] if c else [NOTHING] * 3
        rows.append(row)
    note = (
        "A step is forward, backward and optimizer on a batch of the training, on one thread; the methods take their "
        "steps in turn on the same batches (medians). Memory: the peak of the process above that before the model was "
        "built. Parameters: of the first subset's model."
    )
    return f"{table(head, rows, 'l' + 'r' * (len(head) - 1))}\n\n{note}"


def _wrong_sounds(results: Results, data: str) -> str:
    sounds = [s for s in results.comparison.sounds if s != "real"]
    head = ["method", "real: marked, %"]
    for sound in sounds:
        head += [f"{SOUNDS[sound]}: M_J", "marked, %"]
    rows = [
        [
            results.title(m),
            results.cell(m, data, "real", "foreground"),
            *(results.cell(m, data, s, key) for s in sounds for key in ("M_J", "foreground")),
        ]
        for m in results.comparison.methods
    ]
    return table(head, rows, "l" + "r" * (len(head) - 1))


def _trials(results: Results) -> str:
    rates = results.comparison.trials.lr
    rows, edges = [], []
    for method in results.comparison.methods:
        row = [results.title(method)]
        for lr in rates:
            record = results.trials.get((method, lr))
            text = NOTHING if record is None else "diverged"
            if record is not None and "diverged" not in record:
                text = f"{100 * record['scores']['real']['M_J']:.1f}"
            row.append(f"**{text}**" if lr == results.rates[method] else text)
        rows.append(row)
        if len(rates) > 1 and results.rates[method] in (min(rates), max(rates)):
            edges.append(results.title(method))
    text = table(["method", *(f"{lr:g}" for lr in rates)], rows, "l" + "r" * len(rates))
    end = f"\n\nAt the edge of what was tried, so a better one may be outside: {', '.join(edges)}." if edges else ""
    return text + end


def plot_panels(results: Results) -> dict[str, list[Point]]:
    """Return the points of the plot by the data set's title; a method without scores or costs has none."""
    panels: dict[str, list[Point]] = {}
    for name, data in results.comparison.data.items():
        for method in results.comparison.methods:
            scores = results.values(method, name, "real", "M_J")
            cost = results.costs.get(method, {}).get(data.subset)
            if scores and cost:
                panels.setdefault(data.title, []).append(Point(results.title(method), cost["ratio"], scores))
    return panels


def write_page(comparison: Comparison, records: Records, page: str | Path) -> None:
    """Write the generated part of `page`, and the plot to `images/` beside it.

    The text before and after the two markers is kept; a page that does not exist is created.
    """
    page = Path(page)
    results = Results(comparison, records)
    panels = plot_panels(results)
    if panels:
        unit = results.title(next(iter(comparison.methods)))
        draw_scores_over_cost(panels, unit, page.parent / "images" / f"{page.stem}.png")
    begin, end = markers(COMMAND)
    old = page.read_text(encoding="utf-8") if page.is_file() else f"# Comparison\n\n{begin}\n{end}\n"
    with atomic_write(page) as temporary:
        temporary.write_text(fill_page(old, comparison, records, page), encoding="utf-8")


def fill_page(old: str, comparison: Comparison, records: Records, page: Path) -> str:
    """Return `old` with its generated part written again.

    Raises:
        UserError: if the page does not have the two markers once each, in order.
    """
    picture = ""
    if plot_panels(Results(comparison, records)):
        picture = f"![M_J of each run over the time of a training step](images/{page.stem}.png)\n\n"
    return replace_generated(old, COMMAND, picture + summary(comparison, records), str(page))
