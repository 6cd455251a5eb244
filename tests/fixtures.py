"""Fixtures of many folders: generated clips, a small model with random weights, a video."""

import cv2
import numpy as np
import pytest

import avsmamba
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from tests.small_model import AVSS, CONFIG, SMALL, write_checkpoint
from tests.video.clips import tone, write_clip


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    make_sounding_shapes(root, "ms3", {"train": 6, "val": 1, "test": 4}, size=40, seed=1)
    make_sounding_shapes(root, "s4", {"train": 1, "test": 2}, size=40, seed=1)
    make_sounding_shapes(root, "avss", {"train": 1, "test": 3}, size=40, seed=1)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth")


@pytest.fixture(scope="session")
def model(checkpoint):
    """The small model of one class, with random weights."""
    return avsmamba.load_model(CONFIG, checkpoint, device="cpu", options=SMALL)


@pytest.fixture(scope="session")
def semantic(tmp_path_factory):
    """The small model of several classes, with random weights."""
    path = write_checkpoint(tmp_path_factory.mktemp("semantic") / "avss.pth", config=AVSS)
    return avsmamba.load_model(AVSS, path, device="cpu", options=SMALL)


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """11.4 s of odd size at 5 pictures a second, one of them missing, with sound at 44.1 kHz."""
    rng = np.random.default_rng(0)
    times = [k / 5 for k in range(57) if k != 20]
    images = [cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (67, 45)) for _ in times]
    sound = sum(tone(44_100, 11.4, k, k + 1.5, 300 + 170 * k) for k in range(0, 11, 2))
    path = tmp_path_factory.mktemp("video") / "clip one.mp4"
    return write_clip(path, size=(45, 67), times=times, sound=sound, rate=44_100, images=images)


@pytest.fixture(scope="session")
def cutoff(model, video):
    """A threshold at which masks of random weights are neither empty nor full."""
    return float(np.median(model.predict(video).probabilities)) / 255
