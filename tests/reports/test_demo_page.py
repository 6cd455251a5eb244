"""The demo's page from small made-up runs: what it shows is what the files hold."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from avsmamba.reports.curves import read_curves
from avsmamba.reports.demo_page import SOUNDS, verdict, write_report
from avsmamba.utils import UserError
from avsmamba.visualization import VisualizationHook
from tests import ROOT
from tests.visualization.samples import batch

SCORES = {"real": (0.81237, 0.9, 0.11), "silence": (0.31, 0.02, 0.00034), "shuffle": (0.4321, 0.5, 0.1)}
LOG = "20261125_1000{:02d}/vis_data/scalars.json"


def scores(sound, **changes):
    m_j, m_f, share = SCORES[sound]
    both = {"frame": {"M_J": m_j, "M_F": m_f}, "avsbench": {"M_J": m_j - 0.01, "M_F": m_f + 0.01, "batch_size": 4}}
    return {"audio": sound, "clips": 3, "frames": 15, **both, "foreground": share, **changes}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def lines(*records):
    return "".join(json.dumps(r) + "\n" for r in records)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a demo"
    for sound in SOUNDS:
        write(folder / f"test_{sound}/metrics.json", scores(sound))
        data, outputs = batch(clips=3, frames=2, audio=sound)
        VisualizationHook(show_dir=str(folder / f"test_{sound}/pictures")).after_test_iter(None, 0, data, outputs)
    train = [{"loss": 1 / s, "time": 0.5, "data_time": 0.01, "step": s} for s in (20, 40, 60)]
    write(folder / LOG.format(0), lines(*train[:2], {"M_J": 0.3, "step": 40}, train[2]))
    write(folder / "env.json", {"seed": 7, "device": "cpu", "threads": 2, "torch": "9.8.7", "command": "a <b> & c"})
    write(folder / "tiny.yaml", "train_dataloader: {batch_size: 4}\n")
    return folder


@pytest.fixture
def demo(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "a demo"))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.cells, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)
        self.text += data


def test_everything_that_the_page_refers_to_is_there(demo):
    path = write_report(demo)
    page = Page(path.read_text())
    assert not page.open and path == demo / "index.html"
    files = [link for link in page.links if not link.startswith("data:")]
    assert len(files) == 1 + 3 * (2 + 3) and len(page.links) - len(files) == 2
    for link in files:
        assert not link.startswith(("/", "http")) and (demo / unquote(link)).is_file()
    assert not [p for p in demo.rglob(".*") if p.is_file()], "no temporary file is left"


def test_the_scores_are_those_of_the_files(demo):
    page = Page(write_report(demo).read_text())
    for row, sound in zip(page.cells[1:], SOUNDS, strict=True):
        given = json.loads((demo / f"test_{sound}/metrics.json").read_text())
        shown = [float(cell.removesuffix(" %")) for cell in row[1:]]
        exact = [given[k][n] for k in ("frame", "avsbench") for n in ("M_J", "M_F")]
        assert row[0] == SOUNDS[sound] and shown[:4] == [round(v, 4) for v in exact]
        assert shown[4] == round(100 * given["foreground"], 2)
    for words in (
        "60 iterations of 4 clips",
        "0.5 minutes on 2 CPU threads",
        "2.0 %",
        "torch 9.8.7",
        "a <b> & c",
        "3 of 3",
    ):
        assert words in page.text


def test_metrics_without_the_share_of_the_foreground(demo):
    for sound in SOUNDS:
        write(demo / f"test_{sound}/metrics.json", {k: v for k, v in scores(sound).items() if k != "foreground"})
    page = Page(write_report(demo).read_text())
    assert [row[5] for row in page.cells[1:]] == ["–"] * 3 and "in silence it marks" not in page.text


@pytest.mark.parametrize(
    "shuffle, share, words",
    [
        (
            0.5,
            0.02,
            "The model listens: with the real sound M_J is 0.812, with another clip's sound 0.500 (0.312 lower)",
        ),
        (0.5, 0.021, "The model listens, but marks too much in silence"),
        (0.6, 0.0, "The model listens only in part"),
        (0.8, 0.0, "The model does not listen"),
        (0.9, 0.0, "0.900 (0.088 higher)"),
    ],
)
def test_verdict(shuffle, share, words):
    metrics = {sound: scores(sound) for sound in SOUNDS}
    metrics["shuffle"]["frame"]["M_J"], metrics["silence"]["foreground"] = shuffle, share
    assert words in verdict(metrics)


def test_the_shown_clips_are_spread_over_those_with_each_sound(demo):
    (demo / "test_shuffle/pictures/a-b_00001.png").unlink()
    write_report(demo)
    assert sorted(p.name for p in (demo / "compared").iterdir()) == ["a-b_00000.png", "a-b_00002.png"]
    shutil.rmtree(demo / "compared")
    write_report(demo, clips=1)
    assert [p.name for p in (demo / "compared").iterdir()] == ["a-b_00000.png"]


def test_the_comparison_holds_each_sounds_rows(demo):
    write_report(demo)
    single = np.asarray(Image.open(demo / "test_shuffle/pictures/a-b_00001.png"))
    together = np.asarray(Image.open(demo / "compared/a-b_00001.png"))
    assert together.shape[1] == single.shape[1]
    # the prediction's row and the margin below it end both
    assert np.array_equal(together[-100:], single[-100:])


def test_a_resumed_run_is_read_once(tmp_path):
    write(
        tmp_path / LOG.format(0),
        lines(*({"loss": 9.0, "time": 1, "step": s} for s in (1, 2, 3, 4)), {"M_J": 0.1, "step": 2}),
    )
    write(tmp_path / LOG.format(5), lines({"loss": 1.0, "time": 1, "step": 3}, {"M_J": 0.5, "step": 4}))
    write(tmp_path / LOG.format(7), "")
    curves = read_curves(tmp_path)
    assert curves.loss == [(1, 9.0), (2, 9.0), (3, 1.0)] and curves.score == [(2, 0.1), (4, 0.5)]
    assert curves.seconds == 3


def test_scores_by_epoch_stand_at_the_epochs_last_iteration(tmp_path):
    train = [{"loss": 1.0, "epoch": 1 + s // 10, "step": s} for s in (3, 6, 9, 12, 15)]
    write(tmp_path / LOG.format(0), lines(*train[:3], {"M_J": 0.2, "step": 1}, *train[3:], {"M_J": 0.4, "step": 2}))
    assert read_curves(tmp_path).score == [(9, 0.2), (15, 0.4)]


def test_a_line_that_was_cut_is_forgiven_only_at_the_end(tmp_path):
    good = lines({"loss": 1.0, "step": 1}, {"M_J": 0.5, "step": 1})
    write(tmp_path / LOG.format(0), good + '{"loss": 1.')
    assert read_curves(tmp_path).iterations == 1
    write(tmp_path / LOG.format(0), '{"loss": 1.\n' + good)
    with pytest.raises(UserError, match=r"scalars\.json: line 1: expected a JSON object"):
        read_curves(tmp_path)


@pytest.mark.parametrize(
    "path, content, words",
    [
        ("test_silence/metrics.json", None, "test_silence/metrics.json: cannot be read"),
        ("test_real/metrics.json", "{", "test_real/metrics.json: cannot be read"),
        (
            "test_real/metrics.json",
            scores("silence"),
            "expected the scores with --audio real, got those with 'silence'",
        ),
        ("test_real/metrics.json", scores("real", frame={"M_J": 1.0}), "frame.M_F: expected a number, .* got None"),
        ("test_real/metrics.json", scores("real", clips="3"), "clips: expected a number, .* got '3'"),
        ("test_shuffle/pictures", None, "test_shuffle/pictures: holds no picture"),
        ("env.json", None, "env.json: cannot be read"),
        ("tiny.yaml", None, r"\*\.yaml: no such file"),
        ("tiny.yaml", "model: {}", "tiny.yaml: expected a config with train_dataloader.batch_size"),
        (LOG.format(0), None, "scalars.json: no such file"),
        (LOG.format(0), lines({"loss": 1.0, "step": 1}), "scalars.json: holds no 'M_J'"),
    ],
)
def test_what_is_missing_is_named(demo, path, content, words):
    target = demo / path
    if content is not None:
        write(target, content)
    elif target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    with pytest.raises(UserError, match=words):
        write_report(demo)
    assert not (demo / "index.html").exists()


def test_pictures_that_do_not_go_together(demo):
    file = demo / "test_real/pictures/a-b_00000.png"
    Image.new("RGB", (9, 9)).save(file)
    with pytest.raises(UserError, match=r"a-b_00000\.png: expected a picture that tools/test\.py --show-dir wrote"):
        write_report(demo)
    VisualizationHook(show_dir=str(file.parent)).after_test_iter(None, 0, *batch(frames=3))
    with pytest.raises(UserError, match=r"a-b_00000\.png: pictures: expected one size"):
        write_report(demo)


def test_command_line(demo):
    def run(*words):
        command = [sys.executable, "tools/make_report.py", "--demo-dir", str(demo), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    target = demo / "docs/demo.png"
    done = run("--readme-picture", str(target), "--readme-clip", "a-b_00002", "--clips", "2")
    assert done.returncode == 0 and done.stdout.strip() == str(demo / "index.html"), done.stderr
    source = Image.open(demo / "test_real/pictures/a-b_00002.png")
    assert np.array_equal(np.asarray(Image.open(target)), np.asarray(source))
    failed = run("--readme-picture", str(target), "--readme-clip", "none")
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert failed.stderr.strip() == f"error: {demo}/test_real/pictures/none.png: no such picture"
