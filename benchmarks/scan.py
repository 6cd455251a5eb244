"""Time the scans of the paper's model on this machine, against two limits of it and against public code, in one run.

    python benchmarks/scan.py [--sizes 224 512] [--states 16 1] [--filter NAME] [--json scan.json] [--quick]

Rows are the scans of one clip of five frames (E = 512, R = 16). `forward` records no graph; `backward` is the time from
dy to all eight gradients in a run that did both. Times are medians in ms; after ± comes half the distance of the
quartiles (of the least and the most, where there are few runs). All runs of a row take turns.

Limits, both measured in this run: the bytes that a pass has to move over the bandwidth of a copy, and its state
updates over the peak of the kernel's inner loops on data in cache (scan_limits.py): delta's low-rank product, softplus
and the recurrence, or the gradients of all three; the recurrence's alone is printed too. The nearer limit is the larger
of the two times: `%` is that over ours, and rows below 60 % are marked `<`. Where a row's data fit into the caches, the
bandwidth of main memory does not bind, and a row that is bound by bytes may reach more than 100 %.

Memory is what the resident set grows by beyond the inputs, less the outputs, in a separate process (common.py), in MB
and in percent of the inputs. `kept` are the states that a forward in training passes to the backward; they count for
the backward. `!` marks more than 5 % in forward, and in backward more than `may`: the states at chunk borders and the
partial gradients of each thread (scan_shapes.py has the formula). Up to 0.25 MB, the measurement's resolution, nothing
is marked.

The yardstick (L = 784, K = 4, N = 16) is also run by public code: copies in each order and a Python loop over tokens
(outside_scans.py), whole, with fewer runs, since a forward + backward takes minutes. `--loop-everywhere` runs it in the
other rows too, where its tensors fit into a quarter of the memory.
"""

import argparse
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import MB, Stages, extra_memory, fresh, machine, pm, spread, take_turns, timed, title, write_json
from outside_scans import Scan, loop_bytes, mamba_ssm_loop, torch_loop
from scan_limits import copy_bandwidth, peak_updates_per_second
from scan_shapes import RANK, Case, cases, yardstick

from avsmamba import ops

Row = dict[str, Any]
ENOUGH = 0.6  # of the nearer limit
RESOLUTION = 256 << 10  # bytes to which the resident set is known: its counters lag a few pages a thread behind


def outside_scans() -> dict[str, Scan]:
    """Return public code by name, as far as it is installed."""
    scans: dict[str, Scan] = {"torch": torch_loop, "torch, unbound": functools.partial(torch_loop, unbound=True)}
    outside = mamba_ssm_loop()
    return scans | ({"mamba_ssm": outside} if outside else {})


def runs_of(scan: Scan, case: Case, tensors: list[torch.Tensor]) -> dict[str, Callable[[], Stages]]:
    """Return the timed runs of one implementation: forward alone, and forward and backward."""
    order, out = case.order, case.out
    dy = torch.randn(case.batch, out[1], case.channels)

    def forward() -> Stages:
        with torch.no_grad():
            return {"forward": timed(lambda: scan(*tensors, order, out))}

    def training() -> Stages:
        start = time.perf_counter()
        y = scan(*tensors, order, out)
        middle = time.perf_counter()
        torch.autograd.grad(y, tensors, dy)
        end = time.perf_counter()
        return {"backward": end - middle, "both": end - start}

    return {"forward": forward, "training": training}


def check_equal(scan: Scan, case: Case, name: str) -> None:
    """Raise an AssertionError unless `scan` gives what ours gives, forward and each gradient."""
    tensors, order, out = case.inputs(), case.order, case.out
    dy = torch.randn(case.batch, out[1], case.channels)
    results = []
    for run in (ops.multi_directional_scan, scan):
        y = run(*tensors, order, out)
        results.append([y, *torch.autograd.grad(y, tensors, dy)])
    what = ("y", "dx", "ddt", "dB", "dC", "dA", "dD", "ddt_weight", "ddt_bias")
    for part, ours, theirs in zip(what, *results, strict=True):
        scale = float(ours.detach().abs().max())
        torch.testing.assert_close(
            theirs, ours, atol=2e-5 * scale, rtol=1e-3, msg=lambda m, p=part: f"{name}, {p}, differs from ours: {m}"
        )


def measure(case: Case, outside: dict[str, Scan], repeats: int, loop_repeats: int) -> Row:
    """Measure one scan, all implementations in turns."""
    tensors = case.inputs()
    ours = runs_of(ops.multi_directional_scan, case, tensors)
    runs = {f"ours {what}": run for what, run in ours.items()}
    for who, scan in outside.items():
        runs |= {f"{who} {what}": run for what, run in runs_of(scan, case, tensors).items()}
    slow = [name for name in runs if not name.startswith("ours ")]
    times = take_turns(runs, {name: loop_repeats if name in slow else repeats for name in runs}, slow)
    row: Row = {"scan": case.name, "size": case.size, "L": case.length, "K": case.directions, "batch": case.batch}
    row |= {"N": case.states, "E": case.channels, "updates": case.updates}

    def spreads(who: str) -> dict[str, dict]:
        stages = times[f"{who} forward"] | times[f"{who} training"]
        return {stage: spread(seconds) for stage, seconds in stages.items()}

    row["ours"], row["outside"] = spreads("ours"), {who: spreads(who) for who in outside}
    for theirs in row["outside"].values():
        theirs["times_ours"] = {
            s: theirs[s]["median"] / row["ours"][s]["median"] for s in ("forward", "backward", "both")
        }
    return row


def memory(case: Case) -> dict[str, float]:
    """Return bytes beyond inputs and outputs of a forward and a backward pass, medians of three, in a fresh process.

    `kept`, the states that the forward hands to the backward, are part of the backward's.
    """
    tiny = Case("tiny", 0, "vss", ((4, 4),), case.states, 16, frames=torch.get_num_threads() * 4)
    values: dict[str, list[int]] = {"forward": [], "backward": [], "kept": []}
    forward, backward = torch.ops.avsmamba.multi_directional_scan, torch.ops.avsmamba.multi_directional_scan_backward
    tensors, order, out = case.inputs(), case.order, case.out
    plain = [t.detach() for t in tensors]
    for warm, (inputs, table, wanted) in enumerate([(tiny.inputs(), tiny.order, tiny.out), *[(plain, order, out)] * 3]):
        args = (*(t.detach() for t in inputs), table, *wanted)
        grown, (y, _) = extra_memory(lambda a=args: forward(*a))
        if warm:
            values["forward"].append(grown - y.nbytes)
        states = forward(*args, True)[1]
        dy = torch.ones_like(y)
        del y
        grown, grads = extra_memory(lambda a=args, d=dy, s=states: backward(d, s, *a))
        if warm:
            values["kept"].append(states.nbytes)
            values["backward"].append(states.nbytes + grown - sum(g.nbytes for g in grads))
        del grads, states
    return {what: max(0.0, float(statistics.median(v))) for what, v in values.items()}


class Limits:
    """Copy bandwidth and peaks, measured again and again during the run: the best of each counts."""

    def __init__(self) -> None:
        self.best: dict[Any, float] = {}

    def measure(self, states: int) -> None:
        self._keep("copy", copy_bandwidth())
        for backward in (False, True):
            for rank in (RANK, 0):
                self._keep((states, backward, rank), peak_updates_per_second(states, rank, backward))

    def _keep(self, key: Any, value: float) -> None:
        self.best[key] = max(value, self.best.get(key, 0.0))

    def of(self, case: Case, backward: bool) -> dict[str, float]:
        """Return the least ms of a pass, by bytes and by updates."""
        return {
            "bytes": case.must_move(backward) / self.best["copy"] * 1e3,
            "updates": case.updates / self.best[case.states, backward, RANK] * 1e3,
        }

    def as_json(self) -> dict[str, Any]:
        peaks = {
            f"N={key[0]} {'backward' if key[1] else 'forward'}{'' if key[2] else ', recurrence alone'}": value
            for key, value in self.best.items()
            if key != "copy"
        }
        return {"copy_bytes_per_s": self.best["copy"], "updates_per_s": peaks}


def add_limits(row: Row, case: Case, limits: Limits, used: dict[str, float] | None) -> None:
    """Add the limits, the share of them that is reached, and the memory."""
    passes = {what: limits.of(case, what == "backward") for what in ("forward", "backward")}
    nearer = {what: max(times.values()) for what, times in passes.items()}
    nearer["both"] = sum(nearer.values())
    row["limit_ms"] = passes
    row["must_move_bytes"] = {what: case.must_move(what == "backward") for what in passes}
    row["reached"] = {what: limit / row["ours"][what]["median"] for what, limit in nearer.items()}
    row["below_60"] = [what for what, part in row["reached"].items() if part < ENOUGH]
    row["backward_over_forward"] = row["ours"]["backward"]["median"] / row["ours"]["forward"]["median"]
    row["input_bytes"] = case.input_bytes()
    threads = torch.get_num_threads()
    row["memory_allowed_bytes"] = {what: case.allowed_memory(threads, what == "backward") for what in passes}
    row["memory_bytes"] = used
    may = row["memory_allowed_bytes"]
    row["memory_over"] = [what for what in passes if used and used[what] > may[what] + RESOLUTION]


def show(row: Row) -> str:
    """Return a row of the table."""
    text = f"{row['scan']:27} {row['L']:6} {row['K']:2} {row['batch']:2} {row['N']:3}"
    for what in ("forward", "backward"):
        by = row["limit_ms"][what]
        name = max(by, key=lambda k: by[k])
        text += f" | {pm(row['ours'][what])} {by[name]:8.3f} {name[:3]} {100 * row['reached'][what]:3.0f} %"
        text += "<" if what in row["below_60"] else " "
    text += f" | {row['ours']['both']['median']:9.3f} {row['backward_over_forward']:5.2f}"
    if row["memory_bytes"] is None:
        return text
    used, may = row["memory_bytes"], row["memory_allowed_bytes"]
    for what in ("forward", "backward"):
        mark = "!" if what in row["memory_over"] else " "
        text += f" | {used[what] / MB:7.2f} {100 * used[what] / row['input_bytes']:5.1f} %{mark}"
    return text + f" {used['kept'] / MB:7.2f} {may['backward'] / MB:7.2f}"


HEAD = (
    f"{'scan':27} {'L':>6} {'K':>2} {'b':>2} {'N':>3} | {'forward, ms':>18} {'limit':>8} {'by':>3} {'%':>6} "
    f"| {'backward, ms':>18} {'limit':>8} {'by':>3} {'%':>6} | {'both, ms':>9} {'b / f':>5} "
    f"| {'memory f, MB':>16} | {'backward':>15} {'kept':>8} {'may':>7}"
)


def show_outside(row: Row) -> list[str]:
    """Compare public code in a row with ours."""
    lines = []
    for who, theirs in row["outside"].items():
        for stage, name in (("forward", "forward"), ("both", "forward + backward")):
            ours, runs = row["ours"][stage]["median"], theirs[stage]["runs"]
            lines.append(
                f"  {who:15} {name:18} {pm(theirs[stage])} ms, {runs} runs; ours {ours:.3f} ms: "
                f"{theirs['times_ours'][stage]:.0f} times faster"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512], help="height and width of frames, pixels")
    parser.add_argument("--states", type=int, nargs="+", default=[16, 1], help="values of N")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--loop-repeats", type=int, default=2, help="turns of public code")
    parser.add_argument(
        "--filter", nargs="+", default=[""], metavar="NAME", help="only rows whose name holds one of them"
    )
    parser.add_argument("--loop-everywhere", action="store_true", help="public code in every row: hours")
    parser.add_argument("--no-memory", action="store_true", help="without the memory columns")
    parser.add_argument("--quick", action="store_true", help="64 pixels, 32 channels, few runs: does it work?")
    parser.add_argument("--json", help="file to write everything to")
    args = parser.parse_args()
    sizes, channels, side = args.sizes, 512, 28
    if args.quick:
        sizes, channels, side, args.repeats, args.loop_repeats = [64], 32, 8, 5, 1
    torch.manual_seed(0)
    about, outside, limits = machine(), outside_scans(), Limits()
    print(title(about), flush=True)
    for name, scan in outside.items():
        check_equal(scan, yardstick(channels, min(side, 10)), name)

    todo = [yardstick(channels, side)] + [c for n in args.states for s in sizes for c in cases(s, n, channels)]
    todo = [c for c in todo if any(name.lower() in c.name.lower() for name in args.filter)]
    if not todo:
        parser.error(f"--filter: no row's name holds {args.filter!r}")
    rows, skipped, measured_for = [], [], None
    for case in todo:
        if (case.size, case.states) != measured_for:
            limits.measure(case.states)
            measured_for = case.size, case.states
        others = outside if case == yardstick(channels, side) or args.loop_everywhere else {}
        need = loop_bytes(case.batch, case.length, case.directions, case.channels, case.states)
        if others and need > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4:
            skipped.append(f"{case.name} at {case.size}: {need / 1e9:.0f} GB")
            others = {}
        print(f"  measuring {case.name}, {case.size} pixels, N = {case.states}", file=sys.stderr, flush=True)
        row = measure(case, others, args.repeats, args.loop_repeats)
        rows.append((row, case, None if args.no_memory else fresh(memory, case)))
    limits.measure(todo[-1].states)

    for row, case, used in rows:
        add_limits(row, case, limits, used)
    found = limits.as_json()
    print(f"copy: {found['copy_bytes_per_s'] / 1e9:.2f} GB/s, read and written; peak, G updates/s: ", end="")
    print(", ".join(f"{name} {value / 1e9:.2f}" for name, value in found["updates_per_s"].items()))
    shown = None
    for row, case, _ in rows:
        if (case.size, case.states) != shown:
            print(f"\n{case.size} pixels, N = {case.states}\n{HEAD}")
            shown = case.size, case.states
        print("\n".join([show(row), *show_outside(row)]))
    if "mamba_ssm" not in outside:
        print("\nmamba_ssm is not installed: no rows of its reference")
    for text in skipped:
        print(f"public code left out of {text}")
    below, over = (sum(bool(row[mark]) for row, _, _ in rows) for mark in ("below_60", "memory_over"))
    print(f"\n{len(rows)} rows: {below} below {ENOUGH:.0%} of the nearer limit, {over} with more memory than allowed")
    if args.json:
        content = {"machine": about, "limits": found, "outside": list(outside), "rows": [row for row, _, _ in rows]}
        write_json(args.json, content)


if __name__ == "__main__":
    main()
