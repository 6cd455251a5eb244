"""One HTML page of a training, written while it runs: `TrainingPage`."""

import base64
import datetime
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.ticker import MaxNLocator
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from avsmamba.limits import AT_LEAST_0, counts, limits
from avsmamba.registry import HOOKS
from avsmamba.reports.pages import render
from avsmamba.reports.scalars import SCALARS, Record, parse, read_records
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError, atomic_write, one_line, read_json
from avsmamba.visualization.hook import sample_picture

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Point = tuple[float, float]  # iteration, value
_POINTS = 300  # of a curve on the page
_WIDTH, _HEIGHT = 440, 200  # of the area of a chart, in the SVG's units
_COLOURS = ("#2a5bb8", "#d9731a", "#2b8a57", "#a03a8c")
_PICTURE_WIDTH = 720  # pixels
_HELD = (OSError, UserError, ValueError)


@HOOKS.register_module()
class TrainingPage(Hook):
    """Write `training.html` into the work dir: curves, scores, speed, time to the end and pictures of a validation.

    The browser reads the file again every `seconds`; no server is needed. The values are those in the scalars of the
    work dir (LocalVisBackend), so a resumed run continues its curves. A page that cannot be written, as on a full disk,
    gives one warning.

    Args:
        interval: iterations between two looks at the clock.
        seconds: least time between two pages; one is also written after each validation.
        pictures: clips of the first batch of the last validation that are shown.
    """

    # After LoggerHook.
    priority = "LOW"

    @limits(**counts("interval"), seconds=AT_LEAST_0, pictures=AT_LEAST_0)
    def __init__(self, interval: int = 20, seconds: float = 30.0, pictures: int = 2):
        self.interval, self.seconds, self.count = interval, seconds, pictures
        self.past: list[Record] = []
        self.current: list[Record] = []
        self.offset = 0
        self.pictures: list[str] = []
        self.failed = False

    def before_train(self, runner: Runner) -> None:
        self.start, self.first, self.last = time.monotonic(), runner.iter, -math.inf
        try:
            self.past = [r for r in read_records(Path(runner.work_dir)) if r["iter"] <= runner.iter]
        except UserError:  # a new work dir, or a damaged log
            self.past = []
        # Runs that start in the same second share a folder.
        file = Path(runner.log_dir) / SCALARS
        self.offset = file.stat().st_size if file.is_file() else 0
        self.write(runner, "starting")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval) and time.monotonic() - self.last >= self.seconds:
            self.write(runner, "running", runner.iter + 1)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[AVSDataSample] | None = None,
    ) -> None:
        if batch_idx or not self.count or not is_main_process() or not data_batch or "frames" not in data_batch:
            return
        classes = getattr(runner.val_loop.dataloader.dataset, "metainfo", {}).get("classes", ())
        clips = zip(data_batch["frames"], data_batch["log_mel"], outputs or (), strict=False)
        self.pictures = [picture(*clip, classes) for clip, _ in zip(clips, range(self.count), strict=False)]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if isinstance(runner._train_loop, BaseLoop):
            self.write(runner, "running")

    def after_train(self, runner: Runner) -> None:
        self.write(runner, "finished")

    def write(self, runner: Runner, state: str, iteration: int | None = None) -> None:
        """Write the page; the iterations that are done are `iteration`, by default the runner's."""
        if not is_main_process():
            return
        self.last = time.monotonic()
        done = runner.iter if iteration is None else iteration
        try:
            self._read(Path(runner.log_dir) / SCALARS)
            text = page(self._values(runner, state, done), [*self.past, *self.current], self.pictures)
            with atomic_write(Path(runner.work_dir) / "training.html") as path:
                path.write_text(text, encoding="utf-8")
        except _HELD as error:
            if not self.failed:
                runner.logger.warning(f"training.html is not written ({one_line(error)}); training continues")
            self.failed = True

    def _read(self, file: Path) -> None:
        """Read the whole lines that were added to this run's scalars."""
        if file.is_file():
            with file.open("rb") as scalars:
                scalars.seek(self.offset)
                added = scalars.read()
            added = added[: added.rfind(b"\n") + 1]
            self.offset += len(added)
            self.current += parse(file, added.decode().splitlines(), self.current)

    def _values(self, runner: Runner, state: str, done: int) -> dict[str, Any]:
        total, env = runner.max_iters, Path(runner.work_dir) / "env.json"
        left = None
        if done > self.first and state == "running":
            left = (time.monotonic() - self.start) / (done - self.first) * (total - done)
        return {
            "name": runner.experiment_name.rsplit("_", 3)[0],
            "state": state,
            "done": done,
            "total": total,
            "left": None if left is None else datetime.timedelta(seconds=round(left)),
            "end": None if left is None else _clock(time.time() + left)[:-3],
            "refresh": max(1, round(self.seconds)) if state != "finished" else None,
            "env": read_json(env) if env.is_file() else {},
            "work_dir": str(Path(runner.work_dir).resolve()),
            "memory": _peak_memory(),
        }


def page(values: Mapping[str, Any], records: Sequence[Record], pictures: Sequence[str]) -> str:
    """Return the page's HTML from the runner's values, the records of the log and pictures as base64 JPEG."""
    logged = [r for r in records if "loss" in r]
    scored = [r for r in records if "M_J" in r]
    last = logged[-1] if logged else {}
    best = max(scored, key=lambda r: r["M_J"]) if scored else None
    waiting = last.get("data_time", 0.0) / last["time"] if last.get("time") else None
    losses = [k for k in last if "loss" in k and k != "loss"]
    scores = dict.fromkeys(["M_J", "M_F", *(k for r in scored for k in r if k.startswith("listening/"))])
    curves = {
        "Loss": {name: curve(logged, name) for name in ("loss", *(losses if len(losses) > 1 else ()))},
        "Scores of validations": {name: curve(scored, name) for name in scores},
        "Learning rate": {"lr": curve(logged, "lr")},
        "Seconds per iteration": {"all": curve(logged, "time"), "waiting for data": curve(logged, "data_time")},
    }
    charts = [chart(title, lines, values["done"], "Scores" in title) for title, lines in curves.items()]
    now = time.time()
    return render(
        "training.html.j2",
        **values,
        charts=charts,
        pictures=pictures,
        last=last,
        best=best,
        newest=scored[-1] if scored else None,
        waiting=None if waiting is None else min(1.0, waiting),
        written=_clock(now),
        written_ms=round(1000 * now),
        size=(_WIDTH, _HEIGHT),
    )


def curve(records: Sequence[Record], key: str) -> list[Point]:
    """Return `(iteration, value)` of the finite values of a key, at most `_POINTS`, each the mean of its neighbours."""
    points = [(r["iter"], float(r[key])) for r in records if key in r and math.isfinite(r[key])]
    if len(points) <= _POINTS:
        return points
    return [tuple(part.mean(0)) for part in np.array_split(np.array(points), _POINTS)]


def chart(title: str, lines: Mapping[str, Sequence[Point]], end: int, marks: bool = False) -> dict[str, Any]:
    """Return what the template draws: ticks, and for each line its points in the SVG's units, colour and last value."""
    lines = {name: points for name, points in lines.items() if points}
    found = [point for points in lines.values() for point in points]
    if not found:
        return {"title": title, "lines": []}
    end = max(end, 1)
    low, high = (f(y for _, y in found) for f in (min, max))
    # Losses and durations start at 0, unless a value is below it.
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(min(0.0, low), high if high > low else low + 1)
    bottom, top = float(ticks[0]), float(ticks[-1])

    def x_of(x: float) -> str:
        return f"{_WIDTH * x / end:.1f}"

    def y_of(y: float) -> str:
        return f"{_HEIGHT * (1 - (y - bottom) / (top - bottom)):.1f}"

    drawn = [
        {
            "name": name,
            "colour": colour,
            "points": " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points),
            "dots": [(x_of(x), y_of(y)) for x, y in points] if marks and len(points) <= 60 else [],
            "last": f"{points[-1][1]:.4g}",
        }
        for (name, points), colour in zip(lines.items(), _COLOURS * len(lines), strict=False)
    ]
    across = [t for t in MaxNLocator(4, integer=True).tick_values(0, end) if 0 <= t <= end]
    return {
        "title": title,
        "lines": drawn,
        "y": [(y_of(t), f"{t:.4g}") for t in ticks],
        "x": [(x_of(t), f"{t:,.0f}") for t in across],
    }


def picture(frames: Any, log_mel: Any, sample: AVSDataSample, classes: Sequence[str]) -> str:
    """Return a small JPEG of a clip with its prediction as base64; see `sample_picture`."""
    image = sample_picture(frames, log_mel, sample, classes)
    scale = min(1.0, _PICTURE_WIDTH / image.shape[1])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return base64.b64encode(data.tobytes()).decode()


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _peak_memory() -> float | None:
    """Return the peak of this process's memory, MB; None on Windows."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
