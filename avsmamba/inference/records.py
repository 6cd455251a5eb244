"""`records.jsonl`, one line for each predicted frame, and `masks.json`, written from it: COCO's format for videos."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from avsmamba.inference.frame import FramePrediction, mean_probability
from avsmamba.utils import UserError, atomic_write
from avsmamba.visualization.overlay import class_name

Record = dict[str, Any]
RECORDS = "records.jsonl"
ABOUT = (
    "COCO's format for videos, as YouTube-VIS has it: an annotation is a class over the whole video. segmentations "
    "(run lengths for pycocotools.mask), areas (pixels), bboxes (x, y, width, height) and scores have an entry a "
    "predicted frame, null where the class does not sound. A score is the mean foreground probability over the mask. "
    "times are seconds from the first picture, levels dB of full scale of the sound heard with the frame. image_id is "
    "the video's, so that pycocotools.coco.COCO can read the file."
)


class Records:
    """The predicted frames of a video, in a file of JSON lines; iterating reads them one by one.

    The first line has the settings of the run, then each frame has one (`record_of`). `{"done": "predicted"}` follows
    when the video has ended, `{"done": "rendered"}` when its files are written.

    Args:
        path: of the file, which is created with the first frame.
        settings: an earlier run is continued only if it had the same, by name.
        resume: continue the file of an earlier run, if there is one. An incomplete last line is removed.

    Attributes:
        path: of the file.
        count: number of frames.
        done: '', 'predicted' or 'rendered'.

    Raises:
        UserError: if the earlier run had other settings, or the file is something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None, resume: bool = False):
        self.path, self.settings = path, json.loads(_line(settings or {}))
        self.count, self.done = 0, ""
        if resume and path.is_file():
            with path.open("r+b") as file:
                self._recover(file)

    def _recover(self, file: BinaryIO) -> None:
        head = file.readline()
        before = _parse(head).get("settings")
        if isinstance(before, dict):
            check_settings(self.path.parent, before, self.settings)
        elif head.endswith(b"\n"):
            raise UserError(f"{self.path}: cannot be read; leave --resume out to start over")
        end = len(head)
        for line in file:
            entry = _parse(line)
            if entry.get("done"):
                self.done = entry["done"]
            elif entry.get("index") == self.count:
                self.count += 1
            else:
                break
            end += len(line)
        file.truncate(end)

    def append(self, frame: FramePrediction, threshold: float) -> None:
        """Write the next frame's line."""
        self._write(record_of(frame, threshold))
        self.count = frame.index + 1

    def mark(self, done: str) -> None:
        """Write that all frames are 'predicted' or 'rendered'."""
        self._write({"done": done})
        self.done = done

    def __iter__(self) -> Iterator[Record]:
        with self.path.open(encoding="utf-8") as lines:
            for line in islice(lines, 1, 1 + self.count):
                yield json.loads(line)

    def _write(self, entry: Mapping[str, Any]) -> None:
        lines = _line(entry) if self.count else _line({"settings": self.settings}) + _line(entry)
        size = self.path.stat().st_size if self.count else 0
        try:
            with self.path.open("a" if self.count else "w", encoding="utf-8") as file:
                file.write(lines)
        except OSError:
            if size:
                os.truncate(self.path, size)
            else:
                self.path.unlink(missing_ok=True)
            raise


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, default=str) + "\n"


def _parse(line: bytes) -> Record:
    """Return the entry of a line, an empty one if the line is incomplete."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {}


def check_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a UserError that names the first setting in which a run differs from the one that it continues."""
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            old, new = (str(values.get(key))[:60] for values in (before, now))
            raise UserError(
                f"{folder}: was started with {key} {old}, now it is {new}; --resume requires the same, without it the "
                "prediction starts over"
            )


def record_of(frame: FramePrediction, threshold: float) -> Record:
    """Return a frame's index, time (s), level (dB), and mask, area, bbox and score of each class that sounds."""
    classes: dict[str, Any] = {}
    for index, mask in frame.by_class(threshold).items():
        encoded = coco.encode(np.asfortranarray(mask, np.uint8))
        classes[str(index)] = {
            "counts": encoded["counts"].decode("ascii"),
            "area": int(coco.area(encoded)),
            "bbox": [float(v) for v in coco.toBbox(encoded)],
            "score": round(mean_probability(frame.probability, mask), 4),
        }
    return {"index": frame.index, "time": frame.time, "level": round(frame.level, 2), "classes": classes}


def masks_of(record: Record, size: tuple[int, int]) -> dict[int, NDArray[np.bool_]]:
    """Return the `(h, w)` masks of a record by class index, disjoint."""
    coded = {int(i): {"size": list(size), "counts": noted["counts"]} for i, noted in record["classes"].items()}
    return {index: np.ascontiguousarray(coco.decode(code), bool) for index, code in coded.items()}


def shares_of(records: Iterable[Record], pixels: int) -> tuple[list[float], list[float], dict[int, NDArray[Any]]]:
    """Return times (s), levels (dB), and the sounding share of the picture by class index, `(T,)` each."""
    times, levels, areas = [], [], []
    for record in records:
        times.append(record["time"])
        levels.append(record["level"])
        areas.append({int(index): noted["area"] for index, noted in record["classes"].items()})
    found = sorted({index for frame in areas for index in frame})
    return times, levels, {i: np.array([frame.get(i, 0) for frame in areas]) / pixels for i in found}


def write_masks_json(
    path: Path, records: Iterable[Record], name: str, size: tuple[int, int], fps: float, classes: list[str]
) -> None:
    """Write `masks.json` class by class, so that only one record's mask is in memory.

    Args:
        path: the file.
        records: can be iterated several times.
        name: of the video.
        size: h and w of the masks, pixels.
        fps: predicted frames per second.
        classes: names by index, the background first, or the one class.

    Raises:
        UserError: if the file cannot be written.
    """
    height, width = size
    times, levels, shares = shares_of(records, height * width)
    video = {
        "id": 1,
        "name": name,
        "width": width,
        "height": height,
        "length": len(times),
        "fps": fps,
        "times": [round(t, 6) for t in times],
        "levels": levels,
    }
    known = [1] if len(classes) == 1 else range(1, len(classes))
    head = {
        "info": {"description": ABOUT},
        "videos": [video],
        "categories": [{"id": i, "name": class_name(i, classes), "supercategory": "sounding"} for i in known],
    }
    try:
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as out:
            out.write(json.dumps(head)[:-1] + ', "annotations": [')
            for number, index in enumerate(shares, 1):
                out.write(", " if number > 1 else "")
                _write_annotation(out, number, index, records, size)
            out.write("]}\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _write_annotation(out: TextIO, number: int, index: int, records: Iterable[Record], size: tuple[int, int]) -> None:
    """Write one class over the whole video."""
    head = {"id": number, "video_id": 1, "image_id": 1, "category_id": index, "iscrowd": 0}
    head |= {"height": size[0], "width": size[1]}
    out.write(json.dumps(head)[:-1] + ', "segmentations": [')
    figures: dict[str, list[Any]] = {"areas": [], "bboxes": [], "scores": []}
    for place, record in enumerate(records):
        noted = record["classes"].get(str(index))
        mask = None if noted is None else {"size": list(size), "counts": noted["counts"]}
        out.write((", " if place else "") + json.dumps(mask))
        for key, values in figures.items():
            values.append(None if noted is None else noted[{"areas": "area", "bboxes": "bbox", "scores": "score"}[key]])
    present = [(a, s) for a, s in zip(figures["areas"], figures["scores"], strict=True) if a is not None]
    total = sum(a for a, _ in present)
    tail = {**figures, "area": total, "score": round(sum(a * s for a, s in present) / total, 4)}
    out.write("], " + json.dumps(tail)[1:])
