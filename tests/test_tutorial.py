"""docs/tutorial.md does what it says: its blocks are run as they stand, on small generated videos."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import ROOT

av = pytest.importorskip("av")

# Seven commands, each of which loads torch; on a machine that does other things they may take long.
pytestmark = pytest.mark.timeout(900)
BLOCKS = re.findall(r"^```(bash|python|yaml)\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.M | re.S)
VIDEOS = ("dog_01", "dog_02", "radio_07")
SECONDS, RATE, SAMPLES, HEIGHT, WIDTH = 7, 4, 22_050, 54, 72
# What a user would wait for is cut; nothing else differs from the page.
SHORTER = {"max_iters: 800, val_interval: 200": "max_iters: 2, val_interval: 2"}


def write_video(path: Path, seed: int) -> list[np.ndarray]:
    """A square that hums while it is bright, at 4 pictures a second; its mask at each second."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(4, WIDTH - 28), rng.integers(4, HEIGHT - 28)
    loud = [t % 2 == seed % 2 for t in range(SECONDS)]
    masks = []
    with av.open(str(path), "w") as file:
        pictures, sound = file.add_stream("libx264", rate=RATE), file.add_stream("aac", rate=SAMPLES)
        pictures.width, pictures.height, pictures.pix_fmt, sound.layout = WIDTH, HEIGHT, "yuv420p", "mono"
        for t in range(SECONDS):
            masks.append(np.zeros((HEIGHT, WIDTH), np.uint8))
            masks[-1][y : y + 24, x : x + 24] = 255 * loud[t]
            rgb = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
            rgb[y : y + 24, x : x + 24] = 220
            for _ in range(RATE):
                file.mux(pictures.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        time = np.arange(SECONDS * SAMPLES) / SAMPLES
        wave = 0.4 * np.sin(2 * np.pi * 440 * time) * np.repeat(loud, SAMPLES)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLES, Fraction(1, SAMPLES), 0
        file.mux(sound.encode(frame))
        for stream in (pictures, sound):
            file.mux(stream.encode())
    return masks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that looks like the repository with a user's videos in it, and commands as in its environment."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_videos").mkdir()
    for seed, name in enumerate(VIDEOS):
        (folder / "my_masks" / name).mkdir(parents=True)
        for t, mask in enumerate(write_video(folder / "my_videos" / f"{name}.mp4", seed)):
            cv2.imwrite(str(folder / "my_masks" / name / f"{t}.png"), mask)
    commands = folder / "bin"
    commands.mkdir()
    start = "import sys; from avsmamba.cli import main; sys.exit(main())"
    for name, rest in (("python", '"$@"'), ("avsmamba", f'-c "{start}" "$@"')):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {rest}\n')
        script.chmod(0o755)
    return folder


def run(place: Path, command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "AVSBENCH_ROOT"} | {
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euc", command], cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_page_has_the_blocks_that_are_run():
    assert [kind for kind, _ in BLOCKS] == ["bash", "yaml", "bash", "bash", "bash", "bash"]
    text = "".join(block for _, block in BLOCKS)
    assert all(text.count(old) == 1 for old in SHORTER)


@pytest.fixture(scope="module")
def said(place):
    """What each command of the tutorial printed."""
    said = []
    for kind, block in BLOCKS:
        for old, new in SHORTER.items():
            block = block.replace(old, new)
        if kind == "bash":
            said.append(run(place, block))
        else:
            name = re.match(r"# file: (\S+)\n", block)[1]
            (place / name).write_text(block)
    return said


def test_the_tutorial_runs(place, said):
    laid_out, checked, trained, tested, _ = said
    assert laid_out.startswith("3 clips in my_data/Multi-sources\n") and laid_out.endswith(", 0 faults\n")
    assert checked.endswith("3 clips of 3 data sets, 0 faults\n")
    assert "best_M_J_iter_2.pth" in trained
    scores = re.findall(r"^1 clips?, 5 frames, sound: (\w+)", tested, re.M)
    assert scores == ["real", "silence"], tested
    assert list((place / "pictures").rglob("*.png")) and list((place / "masks").rglob("*.png"))
    frame = cv2.imread(str(place / "my_data/Multi-sources/ms3_data/visual_frames/dog_01_0/dog_01_0.mp4_1.png"))
    assert frame.shape == (HEIGHT, WIDTH, 3)
    names = {path.name for path in (place / "predicted").rglob("*") if path.is_file()}
    assert {"overlay.mp4", "masks.json", "timeline.png"} <= names, names


def test_the_python_of_the_page_on_prediction_runs(place, said):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "predict.md").read_text(), re.M | re.S)
    assert len(blocks) == 3
    (place / "config.yaml").symlink_to("my_config.yaml")
    (place / "checkpoint.pth").symlink_to(next((place / "work_dirs" / "my_config").glob("best_M_J_*.pth")))
    (place / "predictions").symlink_to("predicted")
    for name in ("clip.mp4", "hour.mp4"):
        (place / name).symlink_to(place / "my_videos" / "dog_01.mp4")
    checks = (
        f"assert found.masks.shape == ({SECONDS}, {HEIGHT}, {WIDTH}) and found.labels is None",
        f"assert frame.index == {SECONDS} - 1 and len(found.times) == len(found.scores) == {SECONDS}",
    )
    (place / "page.py").write_text("\n".join([*blocks, *checks]))
    assert len(run(place, "python page.py").splitlines()) == SECONDS
    assert (place / "folder" / "overlay.mp4").is_file()
