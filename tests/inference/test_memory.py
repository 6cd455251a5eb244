"""A video eight times as long takes no more memory; `avsmamba.inference.predict_video` says how."""

import sys
from pathlib import Path

import numpy as np
import pytest

import avsmamba
from avsmamba.inference.predict_video import predict_video
from tests.small_model import CONFIG, SMALL
from tests.video.clips import tone, write_clip


def peak_of(function):
    """Return the peak memory of the process during a call, MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    function()
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_video(checkpoint, tmp_path):
    model = avsmamba.load_model(CONFIG, checkpoint, device="cpu", options=SMALL)
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)

    def run(seconds):
        video = write_clip(
            tmp_path / f"{seconds}.mp4",
            size=(240, 320),
            times=[k / 5 for k in range(5 * seconds)],
            images=[picture] * (5 * seconds),
            sound=tone(16_000, seconds, 0, seconds),
            rate=16_000,
        )
        return peak_of(lambda: predict_video(model, video, tmp_path / f"out{seconds}"))

    run(10)
    short, long = run(12), run(136)
    # 620 more pictures of 230 kB are 143 MB; what the allocator keeps differs by up to 60 MB from run to run.
    assert long < short + 90, (short, long)
