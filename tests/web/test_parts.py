"""What the page is made of, without a browser."""

import argparse
import importlib.util
import json
import socket
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from avsmamba.commands.web import add_arguments, run
from avsmamba.inference.predictor import Predictor
from avsmamba.utils import UserError
from avsmamba.web.results import above, count_pixels
from avsmamba.web.sessions import Gone, Sessions, public
from avsmamba.web.work import Desk, Limits, analyse, choices, compare, describe


def parse(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def desk(material, tmp_path):
    models = {"listener": (str(material / "listener.yaml"), str(material / "listener.pth"))}
    return Desk(models, "cpu", Limits(2, 12), Sessions(tmp_path))


def test_a_folder_is_hidden_in_answers_and_found_in_requests():
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.testclient import TestClient

    from avsmamba.web.hidden_paths import HiddenPaths

    root = "/tmp/my földer/avsmamba-web-1"
    seen = {}

    async def echo(request):
        seen["body"] = await request.json()
        return JSONResponse(seen["body"])

    async def file(request):
        seen["path"] = request.path_params["path"]
        return PlainTextResponse(f"not allowed: {root}/a and {quote(root)}/b and {json.dumps(root)}")

    async def media(request):
        return Response(root.encode(), media_type="video/mp4")

    routes = [Route("/echo", echo, methods=["POST"]), Route("/file={path:path}", file), Route("/media", media)]
    app = Starlette(routes=routes, middleware=[Middleware(HiddenPaths, root=root)])
    with TestClient(app) as client:
        told = client.get("/media-is-missing").text + client.get(f"/file={quote(root)}/x").text
        assert "földer" not in told and "f%C3%B6lder" not in told and "f\\u00f6lder" not in told
        shown = told.split("not allowed: ")[1].split("/a and ")
        assert shown[0].startswith("/avsmamba-files_")
        for name in (shown[0], shown[1].split("/b")[0]):
            client.get(f"/file={name}/x y.mp4")
            assert seen["path"] == f"{root}/x y.mp4"
        answer = client.post("/echo", json={"path": f"{shown[0]}/ö.mp4"})
        assert seen["body"] == {"path": f"{root}/ö.mp4"} and answer.json() == {"path": f"{shown[0]}/ö.mp4"}
        assert client.get("/media").content == root.encode()
    with pytest.raises(ValueError, match="root"):
        HiddenPaths(app, "/tmp/a")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/r/x/sessions/a_-B/9f/source/my clip (1).mp4: is too long", "my clip (1).mp4: is too long"),
        ("cannot open '/r/x/0af/ü.mov'", "cannot open 'ü.mov'"),
        ("/home/someone/models/a.yaml: missing /opt/x/y", "a.yaml: missing y"),
        ("at 24/1 s, see http://127.0.0.1:1/a/b", "at 24/1 s, see http://127.0.0.1:1/a/b"),
    ],
)
def test_messages_name_no_folder(text, told):
    assert public(text, Path("/r/x")) == told


def test_an_upload_stays_while_a_tab_shows_it_and_goes_with_the_last(tmp_path):
    sessions = Sessions(tmp_path)
    upload = tmp_path / "hash" / "a.mp4"
    upload.parent.mkdir()
    upload.write_bytes(b"x")
    for name in "ab":
        sessions.hold(name, "video", upload)
    folder = sessions.get("a").new_folder()
    sessions.hold("a", "video", None)
    assert upload.exists()
    waiting = sessions.get("a")
    sessions.close("a")
    assert not folder.exists()
    sessions.close("b")
    assert not upload.parent.exists()
    for late in (waiting.check_open, waiting.new_folder, lambda: sessions.get("a")):
        with pytest.raises(Gone):
            late()


def test_a_run_is_drawn_again_without_the_model_and_compared(desk, material, monkeypatch):
    session, steps = desk.sessions.get("tab"), []
    upload = material / "two tones.mp4"
    result = analyse(desk, session, upload, "listener", 2.0, lambda done, total: steps.append((done, total)))
    assert steps[-1] == (6, 6) and len(result.times) == 6 and session.result is result
    probabilities = np.array(result.own.prediction.probabilities)
    compare(desk, session, result, None, lambda done, total: None)
    silent = np.array(result.other.run.prediction.probabilities)
    assert (probabilities != silent).any()
    assert (silent == desk.predictor("listener").predict(upload, fps=2.0, audio="silence").probabilities).all()

    def refused(*args, **kwargs):
        raise AssertionError("the model runs again")

    monkeypatch.setattr(Predictor, "stream", refused)
    for threshold in (0.1, 0.5, 0.9):
        masks, others = probabilities > 255 * threshold, silent > 255 * threshold
        rows = {row[0]: row[1:] for row in result.change(threshold)}
        assert rows["share of the picture"] == [f"{masks.mean():.2%}", f"{others.mean():.2%}"]
        assert rows["mean probability inside"][0] == f"{(probabilities[masks] / 255).mean():.2f}"
        assert rows["overlap of the two (IoU)"][0] == f"{(masks & others).sum() / (masks | others).sum():.2f}"
        drawn, stills = result.draw(threshold), result.stills(1.0, threshold)
        assert len(stills) == 2 and all(path.is_file() for path in (*drawn, *stills))
    assert len(list(result.folder.glob("drawn_*"))) == 1

    session.closed = True
    monkeypatch.undo()
    with pytest.raises(Gone):
        compare(desk, session, result, None, lambda done, total: session.check_open())


def test_a_failed_run_leaves_the_last_result_and_no_files(desk, material):
    session = desk.sessions.get("tab")

    def stop(done, total):
        raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        analyse(desk, session, material / "two tones.mp4", "listener", 1.0, stop)
    with pytest.raises(UserError, match="no such model; there are: listener"):
        analyse(desk, session, material / "two tones.mp4", "other", 1.0, stop)
    assert session.result is None and not [path for path in desk.sessions.root.rglob("*") if path.is_file()]


def test_limits(desk, material):
    assert "no sound" in describe(desk, material / "mute.webm")
    with pytest.raises(UserError, match=r"too long: 14.6 s; this page takes up to 12 s"):
        describe(desk, material / "long.mp4")
    with pytest.raises(UserError, match=r"too large: 2.9 MB; this page takes up to 2 MB"):
        describe(desk, material / "large.mp4")
    with pytest.raises(UserError, match="removed meanwhile"):
        describe(desk, material / "nothing.mp4")


def test_pixels_are_counted_by_probability():
    probability = np.array([[0, 127], [128, 255]], np.uint8)
    counts = count_pixels(probability)[None]
    assert [int(above(counts, t)[0]) for t in (0.0, 0.499, 0.5, 0.99, 1.0)] == [3, 2, 2, 1, 0]


def test_models_to_choose_from():
    names = list(choices("a/b.yaml", "c.pth"))
    assert names[0] == "b" and choices("a/b.yaml", "c.pth")["b"] == ("a/b.yaml", "c.pth")
    with pytest.raises(UserError, match="--checkpoint"):
        choices(None, "c.pth")


def test_what_cannot_be_served_is_told_in_one_line(monkeypatch, material):
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
