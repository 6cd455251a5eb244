"""`avsmamba predict` as a user runs it: signals, `kill -9`, broken files, what is printed and how it ends."""

import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

import avsmamba
from avsmamba.inference.predict_video import predict_video
from tests import ROOT
from tests.output_files import FILES, same_result
from tests.small_model import CONFIG, SMALL, write_checkpoint
from tests.video.broken import write_broken
from tests.video.clips import tone, write_clip

ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "AVSBENCH_ROOT"} | {"OMP_NUM_THREADS": "1"}
# 50 ms a frame, so that a signal meets it under way.
SLOW = """
import sys, time
import avsmamba.cli
from avsmamba.inference.records import Records

append = Records.append
Records.append = lambda *arguments: (time.sleep(0.05), append(*arguments))[1]
avsmamba.cli.main(sys.argv[1:])
"""


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


@pytest.fixture
def one_thread():
    """Use one thread, as the subprocesses do, for sums that are equal to the bit."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def test_killed_interrupted_and_resumed(checkpoint, tmp_path, one_thread):
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), (64, 48)) for _ in range(70)]
    sound = sum(tone(22_050, 35.0, k, k + 2.5, 200 + 60 * k) for k in range(0, 33, 3))
    times = [k / 2 for k in range(70)]
    video = write_clip(tmp_path / "long.mkv", times=times, images=images, sound=sound, rate=22_050)
    model = avsmamba.load_model(CONFIG, checkpoint, device="cpu", options=SMALL)
    cutoff = float(np.median(model.predict(video).probabilities)) / 255
    out = tmp_path / "resumed"
    records = out / "records.jsonl"
    predict_video(model, video, tmp_path / "whole", threshold=cutoff)

    def run(*more):
        return start([video], out, checkpoint, "--threshold", str(cutoff), *more, program=("-c", SLOW))

    def done(count):
        return records.is_file() and records.read_bytes().count(b'\n{"index"') >= count

    killed = run()
    wait_for(killed, lambda: done(8))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert os.listdir(out) == ["records.jsonl"]

    interrupted = run("--resume")
    wait_for(interrupted, lambda: done(20))
    interrupted.send_signal(signal.SIGINT)
    status, printed, err = finish(interrupted)
    assert (status, printed) == (130, "")
    assert "long.mkv: " in err and "/35 [" in err and "long.mkv, rendering: " in err
    assert err.splitlines()[-1] == f"interrupted: finished frames are in {out}, --resume continues"
    assert sorted(os.listdir(out)) == sorted([*FILES, "records.jsonl"])

    predict_video(model, video, out, threshold=cutoff, resume=True)
    assert sorted(os.listdir(out)) == FILES
    same_result(tmp_path / "whole", out)


def test_broken_files(checkpoint, tmp_path):
    cases = {case.kind: case for case in write_broken(tmp_path / "in")}
    kinds = ("truncated", "random", "no_frames", "missing", "short_sound", "two_wavs")
    status, printed, err = finish(start([cases[kind].path for kind in kinds], tmp_path / "out", checkpoint))
    assert status == 2 and "short_sound: overlay.mp4, masks/, masks.json, timeline.png" in printed
    for kind in ("random", "no_frames", "missing", "two_wavs"):
        assert len([line for line in err.splitlines() if line.startswith(f"error: {cases[kind].path}")]) == 1
    assert "short_sound" in os.listdir(tmp_path / "out")
    assert all(sorted(os.listdir(tmp_path / "out" / name)) == FILES for name in os.listdir(tmp_path / "out"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "error: x.mp4: no such file; expected a video"),
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
