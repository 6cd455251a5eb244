"""The page of a running training: its values, a resumed run's curves, its size, and how a browser shows it."""

import json
import re
import time

import numpy as np
import pytest

from avsmamba.engine.train import train as run_training
from avsmamba.reports import training_page
from avsmamba.reports.scalars import read_records
from avsmamba.reports.training_page import chart, curve, page
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from tests import ROOT
from tests.engine.conftest import short  # noqa: F401
from tests.engine.standins import config
from tests.web.browser import CHROMIUM, DRIVER, chromium

EVERY = ("default_hooks.logger.interval=1", "default_hooks.training_page={type: TrainingPage, interval: 1, seconds: 0}")
VALUES = {"name": "a<b", "state": "running", "done": 60_000, "total": 80_000, "left": "1:02:03", "end": "2026-01-02"}
VALUES |= {"refresh": 30, "env": {"commit": "abc123+", "device": "cpu"}, "work_dir": "w", "memory": 123.4}


@pytest.fixture
def pages(monkeypatch):
    """Keep every page that is written."""
    kept = []

    def keep(*args, **kwargs):
        kept.append(page(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(training_page, "page", keep)
    return kept


def value(text, name):
    return re.search(rf"<dt>{name}</dt><dd>([^<]*)</dd>", text)[1].strip()


@pytest.mark.parametrize("loop", ["epoch", "iter"])
def test_the_page_follows_the_training(tmp_path, pages, loop):
    run_training(config(tmp_path, loop), work_dir=str(tmp_path / "w"), options=EVERY)
    assert len(pages) == 1 + 16 + 4 + 1  # start, iterations, validations, end
    assert pages[-1] == (tmp_path / "w/training.html").read_text(encoding="utf-8")
    starting, first, running = pages[0], pages[1], pages[12]
    assert value(starting, "loss") == value(starting, "last M_J") == "–" and "polyline" not in starting
    assert value(first, "iteration") == "1 of 16"
    assert '<meta http-equiv="refresh" content="1">' in running and "refresh" not in pages[-1]
    records = read_records(tmp_path / "w")
    scores = [r["M_J"] for r in records if "M_J" in r]
    losses = [r["loss"] for r in records if "loss" in r]
    assert [r["iter"] for r in records if "M_J" in r] == [4, 8, 12, 16]
    assert value(running, "iteration") == "10 of 16" and value(running, "loss") == f"{losses[9]:.4f}"
    assert value(running, "last M_J") == f"{scores[1]:.4f}"
    assert value(running, "best M_J") == f"{max(scores[:2]):.4f}"
    assert re.fullmatch(r"\d+:\d\d:\d\d", value(running, "time to the end"))
    assert value(pages[-1], "time to the end") == "0:00:00" and "finished" in pages[-1]
    env = json.loads((tmp_path / "w/env.json").read_text())
    assert f"commit: {env['commit']}" in running and f"device: {env['device']}" in running
    assert not list((tmp_path / "w").glob(".training*"))


@pytest.mark.parametrize("loop", ["epoch", "iter"])
def test_a_resumed_run_continues_its_curves(tmp_path, pages, loop):
    path, half = config(tmp_path, loop), {"epoch": "train_cfg.max_epochs=2", "iter": "train_cfg.max_iters=8"}[loop]
    run_training(path, work_dir=str(tmp_path / "w"), options=[*EVERY, half])
    pages.clear()
    options = [*EVERY, "default_hooks.checkpoint.max_keep_ckpts=1"]
    run_training(path, work_dir=str(tmp_path / "w"), options=options, resume="auto")
    assert value(pages[0], "iteration") == "8 of 16" and pages[0].count("<polyline") >= 4
    records = read_records(tmp_path / "w")
    assert [r["iter"] for r in records if "loss" in r] == [*range(1, 17)]
    assert [r["iter"] for r in records if "M_J" in r] == [4, 8, 12, 16]
    points = re.search(r'<polyline points="([^"]*)"', pages[-1])[1].split()
    assert len(points) == 16
    # from the beginning again: what another run left does not count
    pages.clear()
    run_training(path, work_dir=str(tmp_path / "w"), options=EVERY)
    assert "<polyline" not in pages[0]


def test_the_clock_limits_the_pages(tmp_path, pages):
    run_training(config(tmp_path), work_dir=str(tmp_path / "w"), options=EVERY[:1])
    assert len(pages) == 1 + 4 + 1  # no page of an iteration in the first 30 seconds


def test_a_page_that_cannot_be_written_does_not_stop_the_training(tmp_path):
    (tmp_path / "w/training.html").mkdir(parents=True)
    run_training(config(tmp_path), work_dir=str(tmp_path / "w"), options=EVERY)
    (log,) = (tmp_path / "w").glob("*/*.log")
    assert log.read_text().count("training.html is not written") == 1
    assert (tmp_path / "w/epoch_4.pth").is_file()


def long_run(count=5000, classes=3):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20, 20 * count + 1, 20):
        times = {"time": 0.4, "data_time": float(rng.uniform(0.01, 0.02)), "memory": 12_345}
        losses = {f"loss_{k}": float(rng.uniform(0, 9)) for k in range(classes)}
        rows.append(
            {"iter": i, "loss": sum(losses.values()), **losses, "lr": 2e-5 * (1 - i / (20 * count + 1)), **times}
        )
        if i % 1000 == 0:
            rows.append({"iter": i, **{k: float(rng.uniform(0, 1)) for k in ("M_J", "M_F", "listening/real")}})
    return rows


def test_a_long_run_is_a_small_page_within_its_time():
    rows = long_run()
    begin = time.perf_counter()
    text = page(VALUES, rows, [])
    spent = time.perf_counter() - begin
    assert len(text) < 100_000
    assert spent < 1, "of 30 seconds"
    assert "a&lt;b" in text and "a<b" not in text
    assert value(text, "waiting for data").endswith(" %") and value(text, "GPU memory, peak") == "12,345 MB"


def test_curves_are_means_of_neighbours_and_finite():
    rows = [{"iter": i, "loss": float(i)} for i in range(1, 1201)]
    points = curve(rows, "loss")
    assert len(points) == 300 and points[0] == (2.5, 2.5)
    assert curve([{"iter": 1, "loss": float("nan")}, {"iter": 2, "loss": 3.0}, {"iter": 3}], "loss") == [(2, 3.0)]


def test_a_chart_has_its_points_between_the_ticks():
    drawn = chart("Loss", {"loss": [(0, 0.0), (50, 4.0), (100, 2.0)], "none": []}, 100)
    (line,) = drawn["lines"]
    assert drawn["y"][0] == ("200.0", "0") and drawn["y"][-1] == ("0.0", "4")
    assert line["points"] == "0.0,200.0 220.0,0.0 440.0,100.0" and line["last"] == "2"
    assert drawn["x"][0] == ("0.0", "0") and drawn["x"][-1] == ("440.0", "100")


@pytest.mark.parametrize("subset", ["ms3", "avss"])
def test_pictures_of_the_last_validation(tmp_path, subset):
    make_sounding_shapes(tmp_path, subset, {"train": 2, "val": 3, "test": 2}, size=96, seed=1)
    options = [f"{name}_dataloader.num_workers=0" for name in ("train", "val")]
    options += ["train_cfg.max_iters=1", "train_cfg.val_interval=1"]
    path = ROOT / f"configs/avs_mamba/avs_mamba_tiny_{subset}_shapes.yaml"
    run_training(path, work_dir=str(tmp_path / "w"), options=options, data_root=str(tmp_path))
    file = tmp_path / "w/training.html"
    assert file.read_text().count("data:image/jpeg;base64,/9j/") == 2
    assert file.stat().st_size < 200_000


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_a_browser_shows_it_and_marks_an_old_page(tmp_path):
    file = tmp_path / "training.html"
    file.write_text(page(VALUES, long_run(500), []), encoding="utf-8")
    driver = chromium(tmp_path / "profile")
    try:
        driver.get(file.as_uri())
        assert driver.title == "75 % a<b"
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        boxes = driver.execute_script("return [...document.querySelectorAll('svg')].map(s => s.getBBox().width)")
        assert len(boxes) == 4 and min(boxes) > 400
        assert driver.execute_script("return document.getElementById('age').textContent") == ""
        text = re.sub(r"Date.now\(\) - (\d+)", lambda m: f"Date.now() - {int(m[1]) - 600_000}", file.read_text())
        file.write_text(text, encoding="utf-8")
        driver.refresh()
        assert driver.execute_script("return document.getElementById('age').textContent") == "(10 minutes ago)"
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        driver.quit()
