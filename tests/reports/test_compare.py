"""avsmamba compare: order of the runs, records, repeated and failed runs, tables and page."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from avsmamba.cli import main
from avsmamba.config import yaml_io
from avsmamba.reports import compare as compare_module
from avsmamba.reports import comparison_cost
from avsmamba.reports import runs as runs_of
from avsmamba.reports.compare import compare, describe_plan, prepare
from avsmamba.reports.comparison import Comparison, Records, learning_rate, tasks
from avsmamba.reports.comparison_cost import current_costs, measure_costs
from avsmamba.reports.comparison_page import Results, fill_page, summary, write_page
from avsmamba.reports.runs import carry_out
from avsmamba.utils import UserError
from tests import ROOT
from tests.reports.test_ablate import ABLATIONS, SMALL

AVSS = """_base_: {ms3}
dataset: AVSBenchAVSS
model:
  head: {{num_classes: 13}}
  losses: [{{type: CrossEntropyLoss}}]
  aux_losses: []
train_dataloader: {{dataset: {{num_frames: 10}}}}
test_dataloader: {{dataset: {{num_frames: 10}}}}
test_evaluator: {{type: AVSSMetric}}
"""
SPLITS = {"train": 2, "val": 2, "test": 2}


@pytest.fixture
def file(tmp_path):
    """A comparison of two methods with small models, of which one has no AVSS."""
    (tmp_path / "baselines").mkdir()
    (tmp_path / "a.yaml").write_text(
        SMALL.format(base=f"{ABLATIONS.file}#tiny_full").replace("interval: 3", "interval: 1")
    )
    (tmp_path / "a_avss.yaml").write_text(AVSS.format(ms3="a.yaml"))
    (tmp_path / "baselines" / "b_tiny_ms3_comparison.yaml").write_text("_base_: ../a.yaml\nmodel: {decoder: null}\n")
    data = {"size": 32, "splits": SPLITS, "iterations": 2}
    content = {
        "methods": {"a": {"title": "A", "ms3": "a.yaml", "avss": "a_avss.yaml"}, "b": {"title": "B", "avss": None}},
        "data": {
            "plain": {"title": "MS3", "subset": "ms3", **data},
            "avss": {"title": "AVSS", "subset": "avss", **data},
        },
        "trials": {"data": "plain", "lr": [1e-3, 3e-3], "iterations": 1, "seed": 10},
        "seeds": [0, 1],
        "sounds": ["real", "silence"],
    }
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml_io.dump(content))
    return path


def changed(file, **values):
    """The comparison with other values at its top level."""
    file.write_text(yaml_io.dump({**yaml_io.read(file), **values}))
    return Comparison(file)


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.setattr(
        compare_module, "prepare", lambda data, folder, workers: folder.mkdir(parents=True, exist_ok=True)
    )


@pytest.fixture
def imagined(monkeypatch, no_data):
    """Runs that only write a result: a trial's score is its learning rate. They are noted; some may fail or diverge."""
    seen, faulty, diverging = [], set(), set()

    def run(folder, threads=None):
        assert threads == 1
        record = json.loads((folder / "run.json").read_text())
        seen.append(name := f"{folder.parent.name}/{folder.name.rpartition('_')[0]}")
        if name in faulty:
            return "a fault (status 2)"
        lr = float(record["options"][0].partition("=")[2])
        scores = {s: {"clips": 2, "frame": {"M_J": lr * 100, "M_F": 0.5}, "foreground": 0.1} for s in record["sounds"]}
        result = {
            "parameters": 1e6,
            "peak_GB": 1.0,
            "scores": scores,
            "env": {"torch": "2", "commit": "c", "threads": 1},
        }
        result |= {"iterations": 2, "loss": 0.1, "train_seconds": 4.0, "test_seconds": 3.0 * len(scores)}
        if name in diverging:
            result |= {"scores": {}, "diverged": "training stopped: loss is nan"}
        (folder / "result.json").write_text(json.dumps(result))
        return None

    monkeypatch.setattr(runs_of, "run_in_a_process", run)
    return seen, faulty, diverging


TRIALS = ["a/plain_trial_0.001", "b/plain_trial_0.001", "a/plain_trial_0.003", "b/plain_trial_0.003"]
FIRST = ["a/plain_seed_0", "b/plain_seed_0", "a/avss_seed_0"]
SECOND = ["a/plain_seed_1", "b/plain_seed_1", "a/avss_seed_1"]


def carried_out(file, folder, **options):
    comparison, records = Comparison(file), Records(folder / "records")
    return compare(comparison, records, comparison.chosen(None), folder / "work", folder / "data", **options)


def test_trials_come_first_then_every_method_with_the_first_seed(file, tmp_path, imagined):
    assert carried_out(file, tmp_path) == {}
    assert imagined[0] == TRIALS + FIRST + SECOND
    comparison, records = Comparison(file), Records(tmp_path / "records")
    assert learning_rate(comparison, records, "a") == 3e-3
    assert {t.lr for t in tasks(comparison, records, "ab") if not t.trial} == {3e-3}
    runs = [Records(tmp_path / "records").find(t) for t in tasks(comparison, records, "ab")]
    assert len(runs) == 10 and None not in runs and runs[-1]["scores"]["silence"]["M_J"] == 0.3


def test_records_are_enough_to_continue(file, tmp_path, imagined):
    seen, faulty, _ = imagined
    faulty |= {TRIALS[1], FIRST[0]}
    assert carried_out(file, tmp_path) == {
        "b, plain, trial, lr 0.001": "a fault (status 2)",
        "a, plain, seed 0, lr 0.003": "a fault (status 2)",
    }
    assert seen == [*TRIALS, FIRST[0], FIRST[2], SECOND[0], SECOND[2]]  # without its trials b has no learning rate
    seen.clear(), faulty.clear()
    (tmp_path / "work").rename(tmp_path / "lost")
    carried_out(file, tmp_path)
    assert seen == [TRIALS[1], *FIRST[:2], SECOND[1]]
    seen.clear()
    carried_out(file, tmp_path)
    assert seen == []


def test_a_record_does_not_depend_on_folders(file, tmp_path, monkeypatch):
    for name in (file.name, "a.yaml", "a_avss.yaml", "baselines/b_tiny_ms3_comparison.yaml"):
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_text((tmp_path / name).read_text())
    digests = []
    for place, data in ((file, "x"), (tmp_path / "copy" / file.name, "y")):
        (tmp_path / data).mkdir()
        monkeypatch.setenv("AVSBENCH_ROOT", str(tmp_path / data))
        digests.append([t.digest for t in tasks(Comparison(place), Records(tmp_path / "none"), "ab")])
    assert digests[0] == digests[1] and len({*digests[0]}) == 10


def test_a_finished_run_without_a_record_is_not_repeated(file, tmp_path, imagined):
    carried_out(file, tmp_path)
    (tmp_path / "records" / "a.json").unlink()
    imagined[0].clear()
    carried_out(file, tmp_path)
    assert imagined[0] == [] and len(Records(tmp_path / "records").of("a")) == 6


def test_what_has_changed_is_repeated(file, tmp_path, imagined):
    seen = imagined[0]
    carried_out(file, tmp_path)
    data = yaml_io.read(file)["data"]
    for change, again in (
        (lambda: (tmp_path / "a_avss.yaml").open("a").write("train_cfg: {val_interval: 7}\n"), [FIRST[2], SECOND[2]]),
        (lambda: changed(file, sounds=["real"]), FIRST + SECOND),
        (lambda: changed(file, data={**data, "extra": {**data["plain"], "seed": 5}}), 4),
        (lambda: (tmp_path / "a.yaml").open("a").write("custom_hooks: []\n"), 14),
    ):
        seen.clear()
        change()
        carried_out(file, tmp_path)
        assert (seen if isinstance(again, list) else len(seen)) == again
    # A new run takes the place of the old one in the records.
    assert len(Records(tmp_path / "records").of("a")) == 8
    seen.clear()
    (tmp_path / "a.yaml").open("a").write("visualizer: null\n")  # no result depends on it
    carried_out(file, tmp_path)
    assert seen == []


def test_another_choice_of_the_learning_rate_repeats_the_runs(file, tmp_path, imagined):
    seen, _, diverging = imagined
    carried_out(file, tmp_path)
    (tmp_path / "work").rename(tmp_path / "old")
    seen.clear()
    diverging.add(TRIALS[3])
    records = Records(tmp_path / "records")
    (task,) = [t for t in tasks(Comparison(file), records, "b") if t.trial and t.lr == 3e-3]
    text = (tmp_path / "records" / "b.json").read_text().replace(task.digest, "0" * 16)
    (tmp_path / "records" / "b.json").write_text(text)
    carried_out(file, tmp_path)
    assert seen == [TRIALS[3], FIRST[1], SECOND[1]]
    assert learning_rate(Comparison(file), Records(tmp_path / "records"), "b") == 1e-3


def test_no_run_is_started_after_the_time_is_over(file, tmp_path, imagined, monkeypatch):
    clock = iter(range(0, 10**6, 50))
    monkeypatch.setattr(runs_of.time, "monotonic", lambda: next(clock))
    carried_out(file, tmp_path, minutes=3)
    assert imagined[0] == TRIALS[: len(imagined[0])] and 1 <= len(imagined[0]) < 4


def test_several_at_a_time(file, tmp_path, imagined):
    carried_out(file, tmp_path, jobs=3)
    assert sorted(imagined[0]) == sorted(TRIALS + FIRST + SECOND)


def test_the_tables(file, tmp_path, imagined):
    comparison, records = Comparison(file), Records(tmp_path / "records")
    assert "| A | – | – | – | – |" in summary(comparison, records)
    imagined[2].add(SECOND[0])
    carried_out(file, tmp_path)
    text = summary(comparison, Records(tmp_path / "records"))
    assert "10 of 10 trainings are finished. Iterations: 2 on MS3 (2 training clips, 2 test clips)" in text
    assert "| A | 30.0 (n = 1) | 50.0 (n = 1) | 30.0 ± 0.0 | 50.0 ± 0.0 |" in text
    assert "| B | 30.0 ± 0.0 | 50.0 ± 0.0 | – | – |" in text
    assert "Not finite at some step, and without scores: A on MS3, seed 1." in text
    assert "| A | 10.0 (n = 1) | 30.0 (n = 1) | 10.0 (n = 1) |" in text
    assert "| B | 10.0 | **30.0** |" in text and "may be outside: A, B." in text
    assert "| A | 0.003 | 1.00 | – | – | – | – | – | – |" in text


def costs(comparison, folder, **ratios):
    """Write costs as `measure_costs` does."""
    entry = {"seconds": 0.5, "peak_GB": 0.25, "parameters": 2e6}
    found = {
        m: {"ms3": {**entry, "ratio": r, "digest": comparison_cost.model_digest(comparison.config(m, "plain"))}}
        for m, r in ratios.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cost.json").write_text(json.dumps(found))


def test_the_page_keeps_what_is_written_by_hand(file, tmp_path, imagined):
    comparison, page = Comparison(file), tmp_path / "docs" / "p.md"
    write_page(comparison, Records(tmp_path / "records"), page)
    empty = page.read_text()
    assert "0 of 10" in empty and not (page.parent / "images").exists()
    page.write_text(f"First.\n{empty}Last.\n")
    carried_out(file, tmp_path)
    costs(comparison, tmp_path / "records", a=1.0, b=0.75)
    records = Records(tmp_path / "records")
    write_page(comparison, records, page)
    text = page.read_text()
    assert text.startswith("First.\n# Comparison") and text.endswith("Last.\n")
    assert "images/p.png" in text and "| B | 0.003 | 2.00 | 0.500 | 0.75 | 0.25 | – | – | – |" in text
    assert (page.parent / "images" / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert fill_page(text, comparison, records, page) == text
    with pytest.raises(UserError, match="once each"):
        fill_page("no markers", comparison, records, page)


def test_the_plan_estimates_what_is_left(file, tmp_path, imagined):
    comparison, records = Comparison(file), Records(tmp_path / "records")
    costs(comparison, tmp_path / "records", a=1.0)
    found = current_costs(comparison, tmp_path / "records")
    text = describe_plan(comparison, records, ["a", "b"], found, jobs=1)
    # One step of half a second, one sound of five, and ten to start.
    assert [c.strip() for c in text.splitlines()[2].split("|")[1:-1]] == ["a", "plain", "trial", "0.001", "1", "16", ""]
    assert "0 of 10 done; left: 0.0 h on one core; 6 without an estimate: run --cost first" in text
    carried_out(file, tmp_path)
    text = describe_plan(comparison, Records(tmp_path / "records"), ["a", "b"], found, jobs=2)
    # Two seconds a step, and three a sound, as the finished runs.
    assert "| a      | plain | 0     | 0.003 |          2 |      20 | done |" in text
    assert "10 of 10 done; left: 0.0 h on one core, 0.0 h with 2 jobs" in text
    (tmp_path / "a.yaml").open("a").write("optim_wrapper: {optimizer: {weight_decay: 0.5}}\n")
    assert current_costs(Comparison(file), tmp_path / "records") == {}


def test_missing_data_is_generated_and_other_data_refused(tmp_path, file):
    data = Comparison(file).data["plain"]
    prepare(data, tmp_path / "data", 1)
    table = tmp_path / "data" / "Multi-sources" / "ms3_meta_data.csv"
    before = table.stat().st_mtime_ns
    prepare(data, tmp_path / "data", 1)
    assert table.stat().st_mtime_ns == before
    data.splits["train"] = 3
    with pytest.raises(UserError, match=r"expected clips {'train': 3.*got {'train': 2.*remove it or name another"):
        prepare(data, tmp_path / "data", 1)


def test_real_runs_and_costs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs_of, "run_in_a_process", lambda folder, threads=None: carry_out(folder))
    values = yaml_io.read(file)
    changed(file, seeds=[0], trials={**values["trials"], "lr": [1e-3]}, data={"plain": values["data"]["plain"]})
    words = [str(file), "--methods", "a", "--data-root", f"{tmp_path / 'd'}", "--records", f"{tmp_path / 'r'}"]
    main(["compare", *words, "--work-dir", str(tmp_path / "w"), "--write-docs", str(tmp_path / "p.md")])
    results = Results(Comparison(file), Records(tmp_path / "r"))
    (run,) = results.runs["a", "plain"]
    assert run["iterations"] == 2 and set(run["scores"]) == {"real", "silence"} and run["scores"]["real"]["clips"] == 2
    trial = results.trials["a", 1e-3]
    assert trial["iterations"] == 1 and trial["loss"] != run["loss"] and set(trial["scores"]) == {"real"}
    assert f"| A | {100 * run['scores']['real']['M_J']:.1f} |" in (tmp_path / "p.md").read_text()
    resolved = yaml_io.read(next((tmp_path / "w").glob("a/plain_trial*/test_real/*/a.yaml")))
    assert resolved["test_dataloader"]["dataset"]["split"] == "val"

    class InThisProcess:
        def Pool(self, count):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def apply(self, function, arguments):
            return function(*arguments)

    monkeypatch.setattr(comparison_cost.multiprocessing, "get_context", lambda kind: InThisProcess())
    measure_costs(Comparison(file), ["b"], tmp_path / "d", tmp_path / "r", rounds=2)
    found = current_costs(Comparison(file), tmp_path / "r")
    assert found["a"]["ms3"]["ratio"] == 1 and found["b"]["ms3"]["ratio"] > 0
    assert found["b"]["ms3"]["parameters"] < found["a"]["ms3"]["parameters"] == run["parameters"]


def test_killed_and_continued(file, tmp_path):
    changed(file, seeds=[0], trials={**yaml_io.read(file)["trials"], "lr": [1e-3]})
    words = [sys.executable, "-m", "avsmamba.cli", "compare", str(file), "--data-root", str(tmp_path / "d")]
    words += ["--work-dir", str(tmp_path / "w"), "--records", str(tmp_path / "r"), "--jobs", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def living():
        """Runs of this test."""
        lines = subprocess.run(["ps", "-ewwo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if str(tmp_path / "w") in line and "reports.runs" in line]

    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL) as process:
        # Not the temporary name under which a record is written: killed there, it would be lost, as it should be.
        while not [*(tmp_path / "r").glob("[ab].json")] and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while living() and time.monotonic() < until:
        time.sleep(0.02)
    assert living() == []
    comparison = Comparison(file)
    before = {m: (tmp_path / "r" / f"{m}.json").read_text() for m in "ab" if (tmp_path / "r" / f"{m}.json").is_file()}
    assert 1 <= sum(len(json.loads(text)["runs"]) for text in before.values()) < 5
    subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL)
    records = Records(tmp_path / "r")
    assert all(records.find(task) for task in tasks(comparison, records, "ab"))
    kept = [run for text in before.values() for run in json.loads(text)["runs"]]
    assert all(run in records.of("a") + records.of("b") for run in kept)
    subprocess.run([*words, "--cost"], env=env, check=True, stdout=subprocess.DEVNULL)
    found = current_costs(comparison, tmp_path / "r")
    assert {m: set(v) for m, v in found.items()} == {"a": {"ms3", "avss"}, "b": {"ms3"}}
    assert all(0 < c["peak_GB"] < 2 and c["rounds"] == 10 for v in found.values() for c in v.values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": {"x": {"title": "X"}}}, r"methods.x.ms3: no such file: .*baselines/x_tiny_ms3_comparison.yaml"),
        ({"methods": {"x": {"name": "X"}}}, "methods.x.name: it takes no 'name'"),
        ({"seeds": [0, 0]}, r"seeds: expected different numbers from 0, got \[0, 0\]"),
        ({"sounds": ["silence"]}, "sounds: expected 'real' and any of"),
        (
            {"trials": {"data": "x", "lr": [1.0], "iterations": 1, "seed": 0}},
            "trials.data: expected one of plain, avss",
        ),
        ({"trials": {"data": "plain", "lr": [], "iterations": 1, "seed": 0}}, "trials.lr: expected different numbers"),
        ({"data": {"x": {"title": "X", "subset": "s4", "iterations": 1}}}, "data.x.subset: expected ms3 or avss"),
    ],
)
def test_a_comparison_that_cannot_be(file, change, message):
    with pytest.raises(UserError, match=message):
        changed(file, **change)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--methods", "tpavy"], "--methods: no such method: tpavy"),
        (["--jobs", "0"], "--jobs: expected at least 1"),
        (["--minutes", "0"], "--minutes: expected a number above 0"),
    ],
)
def test_options_that_cannot_be(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["compare", *words])
    assert message in capsys.readouterr().err


def test_the_committed_page_is_written_from_its_records():
    page = ROOT / "docs" / "comparison.md"
    comparison, text = Comparison(ROOT / "configs" / "comparison.yaml"), page.read_text()
    new = fill_page(text, comparison, Records(ROOT / "docs" / "comparison_runs"), page)
    assert new == text, "run avsmamba compare --report --write-docs docs/comparison.md"
