"""A server of the page with a small model that listens, and a Chromium that reaches nothing but this machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from avsmamba.config.load import load_config, parse_options
from avsmamba.inference.load import load_model
from tests import ROOT
from tests.small_model import CONFIG, SMALL, write_checkpoint
from tests.video.clips import tone, write_clip
from tests.web.browser import CHROMIUM, DRIVER, Tab, chromium

SECONDS, MEGABYTES = 12, 2


@dataclass
class Server:
    url: str
    folder: Path  # where it makes its temporary folder
    log: list[str]

    def files(self):
        """All files that it holds."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Videos and sounds to send, by name, and a model whose probabilities spread, and depend on the sound."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(30)]
    images = [image.repeat(20, 0).repeat(20, 1) for image in small]
    times = [k / 10 for k in range(30)]
    sound = tone(16_000, 3, 0, 3, 900) + 0.3 * tone(16_000, 3, 1, 2, 2500)
    write_clip(folder / "two tones.mp4", (120, 160), times, sound=sound, rate=16_000, images=images)
    write_clip(folder / "mute.webm", (120, 160), times[:20], images=images)
    write_clip(folder / "long.mp4", (48, 64), [k / 2 for k in range(30)], sound=tone(16_000, 15, 0, 15), rate=16_000)
    write_clip(
        folder / "noise.wav", sound=rng.uniform(-0.9, 0.9, 48_000).astype(np.float32), codecs=(None, "pcm_s16le")
    )
    write_clip(folder / "sound only.mp4", sound=tone(16_000, 2, 0, 2), rate=16_000, codecs=(None, "aac"))
    (folder / "broken.mp4").write_bytes(rng.bytes(20_000))
    (folder / "large.mp4").write_bytes(rng.bytes(3_000_000))
    config, checkpoint = folder / "listener.yaml", folder / "listener.pth"
    config.write_text(yaml.safe_dump(load_config(CONFIG, parse_options(SMALL)).to_dict()))
    write_checkpoint(checkpoint)
    _spread(config, checkpoint, folder / "two tones.mp4")
    return folder


def _spread(config, checkpoint, clip):
    """Scale the last layer, so that half of the probabilities are above 0.5, and what the sound gives."""
    predictor = load_model(config, checkpoint, "cpu")
    state = torch.load(checkpoint)["state_dict"]
    state["audio_encoder.fc.weight"] *= 20
    state["head.classifier.bias"] *= 0
    predictor.model.load_state_dict(state)
    found = np.clip(predictor.predict(clip).probabilities / 255.0, 0.01, 0.99)
    state["head.classifier.weight"] *= 40
    state["head.classifier.bias"] -= 40 * float(np.median(np.log(found / (1 - found))))
    torch.save({"state_dict": state}, checkpoint)


@pytest.fixture(scope="session")
def server(material, tmp_path_factory):
    """The page's server in a process of its own, whose temporary folder has a name that addresses must encode."""
    folder = tmp_path_factory.mktemp("über temporary")
    model = ["--model", str(material / "listener.yaml"), "--checkpoint", str(material / "listener.pth")]
    limits = ["--max-mb", str(MEGABYTES), "--max-seconds", str(SECONDS)]
    process = subprocess.Popen(
        [sys.executable, "-m", "avsmamba.cli", "web", "--port", "0", "--device", "cpu", *model, *limits],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = []
    try:
        for line in process.stdout:
            log.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(log))
        threading.Thread(target=lambda: log.extend(process.stdout), daemon=True).start()
        yield Server(found[0], folder, log)
        process.terminate()
        end = time.monotonic() + 30
        while list(folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not list(folder.iterdir()), "the server's temporary folder outlives it"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium; each test opens tabs of its own in it."""
    missing = [name for name, path in (("chromium", CHROMIUM), ("chromium-driver", DRIVER)) if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install chromium chromium-driver)")
    profile = tmp_path_factory.mktemp("chromium")
    driver = chromium(profile)
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def tab(browser, server, material):
    """The page in a new tab."""
    tab = Tab(browser, server.url, material)
    try:
        yield tab
    finally:
        tab.close()
