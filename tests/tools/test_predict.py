"""`avsmamba predict` as a user runs it: signals, `kill -9`, broken files, what is printed and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

import avsmamba
from tests.apis.test_predict import FILES, same_result
from tests.apis.tiny import CONFIG, SMALL, write_checkpoint
from tests.engine.standins import ROOT
from tests.video.broken import write_broken
from tests.video.clips import tone, write_clip

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "AVSBENCH_ROOT"} | {"OMP_NUM_THREADS": "1"}
# Parts of three seconds, so that a short video has some.
SHORT_PARTS = "import sys, avsmamba.cli, avsmamba.apis.outputs as o; o.PART = 3.0; avsmamba.cli.main(sys.argv[1:])"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth")


def start(videos, out, checkpoint, *more, program=("-m", "avsmamba.cli")):
    words = [*map(str, videos), "--model", str(CONFIG), "--checkpoint", str(checkpoint), "--out", str(out), *more]
    command = [sys.executable, *program, "predict", *words, "--device", "cpu", "--cfg-options", *SMALL]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=200)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_killed_interrupted_and_resumed(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), (64, 48)) for _ in range(100)]
    sound = sum(tone(22_050, 50.0, k, k + 2.5, 200 + 60 * k) for k in range(0, 48, 3))
    video = write_clip(
        tmp_path / "long.mkv", times=[k / 2 for k in range(100)], images=images, sound=sound, rate=22_050
    )
    model = avsmamba.load_model(CONFIG, checkpoint, device="cpu", options=SMALL)
    cutoff = str(float(np.median(model.predict(video).probabilities)) / 255)
    out, masks = tmp_path / "parts", tmp_path / "parts" / "masks"

    def run(folder, *more):
        return start([video], folder, checkpoint, "--threshold", cutoff, *more, program=("-c", SHORT_PARTS))

    def done(count):
        return masks.is_dir() and len([name for name in os.listdir(masks) if name[0] != "."]) >= count

    assert finish(run(tmp_path / "whole"))[0] == 0
    killed = run(out)
    wait_for(killed, lambda: done(8))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert json.loads((out / ".progress" / "progress.json").read_text())["done"] >= 6

    interrupted = run(out, "--resume")
    wait_for(interrupted, lambda: done(25))
    interrupted.send_signal(signal.SIGINT)
    status, printed, err = finish(interrupted)
    assert (status, printed) == (130, "")
    assert err.splitlines()[-1] == f"interrupted: what was done is in {out}, --resume goes on"
    assert sorted(os.listdir(out)) == [".progress", *FILES]

    stopped = run(out, "--resume")
    wait_for(stopped, lambda: done(35))
    stopped.send_signal(signal.SIGTERM)
    assert finish(stopped)[0] == 143

    status, printed, err = finish(run(out, "--resume"))
    assert (status, printed) == (0, f"{out}: overlay.mp4, masks/, masks.json, timeline.png\n")
    assert "long.mkv: 100%" in err and "50/50" in err
    assert sorted(os.listdir(out)) == FILES
    same_result(tmp_path / "whole", out)


def test_broken_files(checkpoint, tmp_path):
    cases = {case.kind: case for case in write_broken(tmp_path / "in")}
    kinds = ("truncated", "random", "no_frames", "missing", "short_sound", "two_wavs")
    videos = [cases[kind].path for kind in kinds]
    status, printed, err = finish(start(videos, tmp_path / "out", checkpoint))
    assert status == 2 and "short_sound: overlay.mp4, masks/, masks.json, timeline.png" in printed
    for kind in ("random", "no_frames", "missing", "two_wavs"):
        assert len([line for line in err.splitlines() if line.startswith(f"error: {cases[kind].path}")]) == 1
    assert "short_sound" in os.listdir(tmp_path / "out")
    assert all(sorted(os.listdir(tmp_path / "out" / name)) == FILES for name in os.listdir(tmp_path / "out"))

    status, printed, err = finish(start([cases["random"].path], tmp_path / "one", checkpoint))
    assert (status, printed, len(err.splitlines())) == (2, "", 1) and err.startswith("error: ")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--fps", "0"], "error: fps: expected a positive number"),
        (["--overlap", "7"], "error: overlap: expected 0 to 4"),
        (["--threshold", "2"], "error: threshold: expected a number from 0 to 1"),
        (["--device", "abacus"], "error: --device: expected auto"),
        (["--checkpoint", "none.pth"], "error: none.pth: no such checkpoint file"),
    ],
)
def test_options_that_do_not_fit(checkpoint, tmp_path, more, message, capsys):
    from avsmamba.cli import main

    words = ["predict", "x.mp4", "--model", str(CONFIG), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as ended:
        main([*words, *more, "--cfg-options", *SMALL])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith(message) and len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_commands(capsys):
    from avsmamba.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert all(name in capsys.readouterr().out for name in ("predict", "sample", "web", "models", "info"))
    with pytest.raises(SystemExit):
        main([])
    main(["info"])
    assert "backends of the scan" in capsys.readouterr().out


def test_tools_predict_is_the_same():
    command = [sys.executable, "tools/predict.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "--require-audio" in done.stdout
