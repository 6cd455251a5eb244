"""Reads each file named on the command line as `avsmamba predict` does, and prints one line of JSON for each.

A program of its own, so that a crash of a library or a line it prints does not go unseen.
"""

import json
import sys
import time
import warnings
from itertools import islice, pairwise
from pathlib import Path

from avsmamba.utils import UserError
from avsmamba.video import VideoWriter, join, open_video


def read(path, out):
    """Read pictures and sound, write the pictures anew and join them with the source's sound."""
    with open_video(path) as video:
        info = video.info
        sampled = [picture.shape for _, picture in islice(video.sampled(2.0), 3000)]
        sound = [len(video.sound(k, k + 0.975)) for k in range(min(len(sampled), 3000))]
        part = out / "part.mp4"
        times = []
        with VideoWriter(part, info.width, info.height, info.frame_rate) as writer:
            for at, picture in islice(video.frames(), 3000):
                writer.write(picture, at)
                times.append(at)
        join(part, out / "joined.mp4", path)
        part.unlink()
    with open_video(out / "joined.mp4") as video:
        joined = sum(1 for _ in video.frames())
    (out / "joined.mp4").unlink()
    assert set(sampled) == {(info.height, info.width, 3)} and set(sound) == {15_600}
    assert times[0] == 0 and all(a < b for a, b in pairwise(times)) and joined == len(times)
    return {"pictures": len(times), "sampled": len(sampled), "sound": info.has_audio}


def main():
    out = Path(sys.argv[1])
    for path in sys.argv[2:]:
        print(json.dumps({"begin": path}), flush=True)
        begin = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = read(path, out)
            except UserError as error:
                result = {"error": str(error)}
        result |= {"path": path, "seconds": time.monotonic() - begin, "warnings": [str(w.message) for w in caught]}
        print(json.dumps(result | {"left": sorted(file.name for file in out.iterdir())}), flush=True)


if __name__ == "__main__":
    main()
