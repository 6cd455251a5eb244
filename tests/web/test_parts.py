"""Parts of the page, without a browser."""

import argparse
import importlib.util
import socket
from pathlib import Path

import numpy as np
import pytest

from avsmamba.commands.web import add_arguments, run
from avsmamba.inference.predictor import Predictor
from avsmamba.utils import UserError
from avsmamba.web.results import count_above, count_pixels
from avsmamba.web.sessions import Session, SessionClosed, Uploads, without_folders
from avsmamba.web.work import AppState, analyse, compare, describe, find_models


def parse(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def app(material, tmp_path):
    models = {"listener": (str(material / "listener.yaml"), str(material / "listener.pth"))}
    return AppState(models, "cpu", 2, 12, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/r/x/sessions/a_-B/9f/source/my clip (1).mp4: is too long", "my clip (1).mp4: is too long"),
        ("cannot open '/r/x/0af/ü.mov'", "cannot open 'ü.mov'"),
        ("/home/someone/models/a.yaml: missing /opt/x/y", "a.yaml: missing y"),
        ("at 24/1 s, see http://127.0.0.1:1/a/b", "at 24/1 s, see http://127.0.0.1:1/a/b"),
    ],
)
def test_messages_name_no_folder(text, expected):
    assert without_folders(text, Path("/r/x")) == expected


def test_an_upload_stays_while_a_tab_shows_it_and_goes_with_the_last(tmp_path):
    uploads = Uploads()
    first, second = (Session(tmp_path / "sessions", uploads) for _ in range(2))
    upload = tmp_path / "hash" / "a.mp4"
    upload.parent.mkdir()
    upload.write_bytes(b"x")
    for session in (first, second):
        session.show("video", str(upload))
    first.folder.mkdir(parents=True)
    first.show("video", None)
    assert upload.exists()
    first.close()
    assert not first.folder.exists() and upload.exists()
    second.show("video", str(upload))
    assert upload.exists()
    second.close()
    assert not upload.parent.exists()
    with pytest.raises(SessionClosed):
        first.check_open()


def test_the_example_clip_is_created_once_and_stays(app):
    clip = app.example()
    assert describe(app, clip).startswith("sample.mp4: 10.0 s, 320 x 320")
    session, created = app.open_session(), clip.stat().st_mtime_ns
    session.show("video", str(clip))
    session.close()
    assert app.example().stat().st_mtime_ns == created


def test_a_run_is_drawn_again_without_the_model_and_compared(app, material, monkeypatch):
    session, steps = app.open_session(), []
    upload = material / "two tones.mp4"
    result = analyse(app, session, upload, "listener", 2.0, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (6, 6) and len(result.times) == 6 and session.result is result
    probabilities = np.array(result.own.prediction.probabilities)
    compare(app, session, result, None, lambda done, total: None)
    silent = np.array(result.other.prediction.probabilities)
    assert (probabilities != silent).any()
    assert (silent == app.predictor("listener").predict(upload, fps=2.0, audio="silence").probabilities).all()

    def refused(*args, **kwargs):
        raise AssertionError("the model runs again")

    monkeypatch.setattr(Predictor, "stream", refused)
    for threshold in (0.1, 0.5, 0.9):
        masks, others = probabilities > 255 * threshold, silent > 255 * threshold
        rows = {row[0]: row[1:] for row in result.comparison(threshold)}
        assert rows["share of the picture"] == [f"{masks.mean():.2%}", f"{others.mean():.2%}"]
        assert rows["mean probability inside"][0] == f"{(probabilities[masks] / 255).mean():.2f}"
        assert rows["overlap of the two (IoU)"][0] == f"{(masks & others).sum() / (masks | others).sum():.2f}"
        drawn, stills = result.draw(threshold), result.stills(1.0, threshold)
        assert len(stills) == 2 and all(path.is_file() for path in (*drawn, *stills))
    assert len(list(result.folder.glob("drawn_*"))) == 1

    session.closed = True
    monkeypatch.undo()
    with pytest.raises(SessionClosed):
        compare(app, session, result, None, lambda done, total: session.check_open())


def test_a_failed_run_leaves_the_last_result_and_no_files(app, material):
    session = app.open_session()

    def stop(done, total):
        raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        analyse(app, session, material / "two tones.mp4", "listener", 1.0, stop)
    with pytest.raises(UserError, match="no such model; there are: listener"):
        analyse(app, session, material / "two tones.mp4", "other", 1.0, stop)
    assert session.result is None and not [path for path in app.root.rglob("*") if path.is_file()]


def test_limits(app, material):
    assert "no sound" in describe(app, material / "mute.webm")
    with pytest.raises(UserError, match=r"too long: 14.6 s; this page takes up to 12 s"):
        describe(app, material / "long.mp4")
    with pytest.raises(UserError, match=r"too large: 2.9 MB; this page takes up to 2 MB"):
        describe(app, material / "large.mp4")
    with pytest.raises(UserError, match="removed meanwhile"):
        describe(app, material / "nothing.mp4")


def test_pixels_are_counted_by_probability():
    probability = np.array([[0, 127], [128, 255]], np.uint8)
    counts = count_pixels(probability)[None]
    assert [int(count_above(counts, t)[0]) for t in (0.0, 0.499, 0.5, 0.99, 1.0)] == [3, 2, 2, 1, 0]


def test_models_to_choose_from():
    names = list(find_models("a/b.yaml", "c.pth"))
    assert names[0] == "b" and find_models("a/b.yaml", "c.pth")["b"] == ("a/b.yaml", "c.pth")
    with pytest.raises(UserError, match="--checkpoint"):
        find_models(None, "c.pth")


def test_what_cannot_be_served_is_reported_in_one_line(monkeypatch, material):
    model = ["--model", str(material / "listener.yaml"), "--checkpoint", str(material / "listener.pth")]
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "before")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install avsmamba\[web\]"):
            run(parse())
    pytest.importorskip("gradio")
    with pytest.raises(UserError, match="--max-mb: expected more than 0"):
        run(parse("--max-mb", "0", *model))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=rf"--port {port}: cannot listen there"):
            run(parse("--port", port, *model))
    with pytest.raises(UserError, match="--port 70000"):
        run(parse("--port", "70000", *model))
