"""What the benchmarks share: turns, spread, memory that a call adds, separate processes, the JSON file."""

import ctypes
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from avsmamba import ops
from avsmamba.utils import atomic_write

Stages = dict[str, float]  # seconds of each stage of a run
MB = 1e6
PRELOAD = ("torch", "avsmamba.ops")


def machine() -> dict[str, Any]:
    """Return the machine and the versions that the numbers are valid for."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "backend": ops.available_backends()[0],
    }


def title(about: dict[str, Any]) -> str:
    """Return `machine()` as one line."""
    return f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}, backend {about['backend']}"


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def take_turns(
    runs: dict[str, Callable[[], Stages]], repeats: dict[str, int], slow: Collection[str] = ()
) -> dict[str, dict[str, list[float]]]:
    """Run A B C A B C …; seconds of each stage of each of them, one value a turn.

    A run that lasts less than 20 ms is repeated for about that long and its mean is one value. One run before the
    first turn is not counted, nor is one before each turn of what lasts less than half a second. Those in `slow` run
    once a turn, and all of their runs count.
    """
    inner, warm = dict.fromkeys(runs, 1), dict.fromkeys(runs, False)
    for name in runs.keys() - set(slow):
        runs[name]()
        seconds = timed(runs[name])
        inner[name], warm[name] = max(1, min(200, int(0.02 / seconds))), seconds < 0.5
    times: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    for turn in range(max(repeats.values())):
        for name, run in runs.items():
            if turn >= repeats[name]:
                continue
            if warm[name]:
                run()
            samples = [run() for _ in range(inner[name])]
            for stage in samples[0]:
                times[name].setdefault(stage, []).append(statistics.fmean(s[stage] for s in samples))
    return times


def spread(seconds: list[float]) -> dict[str, float | int]:
    """Return the median in ms with the quartiles, or with least and most where there are fewer than five values."""
    ms = [s * 1e3 for s in seconds]
    low, high = min(ms), max(ms)
    if len(ms) >= 5:
        low, _, high = statistics.quantiles(ms, n=4)
    return {"median": statistics.median(ms), "low": low, "high": high, "runs": len(ms)}


def pm(value: dict[str, float | int]) -> str:
    """Return a spread as text: the median and half the distance of its borders."""
    return f"{value['median']:9.3f} ±{(value['high'] - value['low']) / 2:7.3f}"


def extra_memory(run: Callable[[], Any]) -> tuple[int, Any]:
    """Run `run()`; return the bytes by which the resident set grew at most, and the result.

    Before the run the peak of this process is reset (Linux: `clear_refs`) and freed memory is returned to the system,
    so that no buffer is hidden in it. Call it in a process of `fresh`.

    Raises:
        RuntimeError: where the system cannot reset the peak.
    """
    gc.collect()
    _libc().malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise RuntimeError(f"memory: the peak of a process cannot be reset here ({error}); this needs Linux") from error
    before = resident()["VmRSS"]
    result = run()
    return max(0, resident()["VmHWM"] - before), result


def resident(process: int | str = "self") -> dict[str, int]:
    """Read VmRSS and VmHWM (resident set now and at its peak, since the last reset) of a process, bytes."""
    fields = (line.split() for line in _lines(f"/proc/{process}/status") if line.startswith(("VmRSS", "VmHWM")))
    return {name.rstrip(":"): int(kb) * 1024 for name, kb, _ in fields}


def fresh(run: Callable[..., Any], *args: Any) -> Any:
    """Run `run(*args)` in a process of its own, forked from one that has only loaded the same modules.

    Raises:
        MemoryError: if the system killed it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in PRELOAD if name in sys.modules])
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(threads,)) as pool:
        try:
            return pool.submit(run, *args).result()
        except BrokenProcessPool as error:
            raise MemoryError(f"{run.__name__}{args}: the process was killed, most likely for its memory") from error


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write `content` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _prepare(threads: int) -> None:
    """Prepare a fresh process: large buffers come from the system and return to it, on pages of one size."""
    torch.set_num_threads(threads)
    m_mmap_threshold, pr_set_thp_disable = -3, 41
    _libc().mallopt(m_mmap_threshold, 1 << 16)
    _libc().prctl(pr_set_thp_disable, 1, 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
