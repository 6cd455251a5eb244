"""Slow: an hour of video takes no more memory than a minute (`pytest -m slow -s tests/inference/test_hour.py`).

The video has 720 lines, or AVSMAMBA_HOUR_LINES.
"""

import os
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from avsmamba.sounding_shapes.sample import make_sample
from avsmamba.video import open_video
from tests.video.clips import write_clip

RATE = 10  # pictures a second
LINES = int(os.environ.get("AVSMAMBA_HOUR_LINES", 720))
COLUMNS = LINES * 16 // 9


def minute(folder):
    """A minute: the sample clip, which lasts ten seconds, six times."""
    make_sample(folder)
    with open_video(folder / "sample.mp4") as sample:
        pictures = [picture for _, picture in sample.sampled(RATE)]
        sound = np.concatenate([sample.sound(k, k + 1) for k in range(10)])
    side = (COLUMNS - LINES) // 2
    small = [cv2.resize(p, (LINES, LINES)) for p in pictures]
    wide = [cv2.copyMakeBorder(p, 0, 0, side, COLUMNS - LINES - side, cv2.BORDER_REFLECT) for p in small]
    times = [k / RATE for k in range(60 * RATE)]
    assert len(wide) == 10 * RATE
    return write_clip(
        folder / "minute.mp4", (LINES, COLUMNS), times, RATE, np.tile(sound, 6), 16_000, images=[*wide] * 6
    )  # fmt: skip


def repeated(source, path, times):
    """Repeat the packets of a file of one minute."""
    with av.open(str(path), "w") as out, av.open(str(source)) as first:
        streams = [out.add_stream_from_template(stream) for stream in first.streams]
        last = [-(1 << 60)] * len(streams)
        for k in range(times):
            with av.open(str(source)) as container:
                for packet in container.demux():
                    if packet.dts is None:
                        continue
                    shift = round(k * 60 / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    number = packet.stream.index
                    if packet.dts <= last[number]:
                        continue  # the sound of a minute is a little longer than one
                    last[number], packet.stream = packet.dts, streams[number]
                    out.mux(packet)
    return path


# getrusage's peak would begin with that of the process that starts this one.
PREDICT = """
import sys
from pathlib import Path
from avsmamba.cli import main
main(["predict", *sys.argv[1:]])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def predict(video, out):
    """Run the command; its peak memory, MB."""
    command = [sys.executable, "-c", PREDICT, str(video), "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return int(done.stdout.split()[-2]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_an_hour_takes_no_more_memory_than_a_minute(tmp_path):
    short = minute(tmp_path)
    long = repeated(short, tmp_path / "hour.mp4", 60)
    with open_video(long) as video:
        assert abs(video.info.duration - 3600) < 1 and (video.info.width, video.info.height) == (COLUMNS, LINES)
    peaks = predict(short, tmp_path / "minute"), predict(long, tmp_path / "hour")
    print(f"peak memory: one minute {peaks[0]:.0f} MB, one hour {peaks[1]:.0f} MB")
    with av.open(str(tmp_path / "hour" / "overlay.mp4")) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert picture.frames == 3600 * RATE
        for stream in (picture, sound):
            assert abs(float((stream.duration or 0) * (stream.time_base or Fraction(0))) - 3600) < 1
    assert len(list((tmp_path / "hour" / "masks").iterdir())) == 3600
    assert peaks[1] < 1.1 * peaks[0]
