"""What is noted of each predicted frame, line by line, and `masks.json` made of it: COCO's format for videos."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from avsmamba.apis.result import FramePrediction, mean_probability
from avsmamba.utils import UserError, atomic_write
from avsmamba.visualization.overlay import class_name

Record = dict[str, Any]
ABOUT = (
    "COCO's format for videos, as YouTube-VIS has it: an annotation is a class over the whole video. segmentations "
    "(run lengths for pycocotools.mask), areas (pixels), bboxes (x, y, width, height) and scores have an entry a "
    "predicted frame, null where the class does not sound. A score is the mean foreground probability over the mask. "
    "times are seconds from the first picture, levels dB of full scale of the sound heard with the frame. image_id is "
    "the video's, so that pycocotools.coco.COCO can read the file."
)


def record_of(frame: FramePrediction, threshold: float) -> Record:
    """What is noted of a frame: index, time (s), level (dB), and of each class that sounds its mask and figures."""
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


def read_records(files: Iterable[Path]) -> Iterator[Record]:
    """The records of these files, one after another."""
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def shares_of(files: Sequence[Path], pixels: int) -> tuple[list[float], list[float], dict[int, NDArray[np.float64]]]:
    """For the timeline: times (s), levels (dB), and the share of the picture by class index, `(T,)` each."""
    times, levels, areas = [], [], []
    for record in read_records(files):
        times.append(record["time"])
        levels.append(record["level"])
        areas.append({int(index): noted["area"] for index, noted in record["classes"].items()})
    found = sorted({index for frame in areas for index in frame})
    return times, levels, {i: np.array([frame.get(i, 0) for frame in areas]) / pixels for i in found}


def write_masks_json(
    path: Path, files: Sequence[Path], name: str, size: tuple[int, int], fps: float, classes: Sequence[str]
) -> None:
    """Write `masks.json` from records, class by class, so that no more than one record's mask is held at a time.

    Args:
        path: the file.
        files: of records, in order.
        name: of the video.
        size: h and w of the masks, pixels.
        fps: predicted frames a second.
        classes: names by index, the background first, or the one class.

    Raises:
        UserError: if the file cannot be written.
    """
    height, width = size
    times, levels, shares = shares_of(files, height * width)
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
                _write_annotation(out, number, index, files, size)
            out.write("]}\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _write_annotation(out: TextIO, number: int, index: int, files: Sequence[Path], size: tuple[int, int]) -> None:
    """One class over the whole video."""
    head = {"id": number, "video_id": 1, "image_id": 1, "category_id": index, "iscrowd": 0}
    head |= {"height": size[0], "width": size[1]}
    out.write(json.dumps(head)[:-1] + ', "segmentations": [')
    figures: dict[str, list[Any]] = {"areas": [], "bboxes": [], "scores": []}
    for place, record in enumerate(read_records(files)):
        noted = record["classes"].get(str(index))
        mask = None if noted is None else {"size": list(size), "counts": noted["counts"]}
        out.write((", " if place else "") + json.dumps(mask))
        for key, values in figures.items():
            values.append(None if noted is None else noted[{"areas": "area", "bboxes": "bbox", "scores": "score"}[key]])
    present = [(a, s) for a, s in zip(figures["areas"], figures["scores"], strict=True) if a is not None]
    total = sum(a for a, _ in present)
    tail = {**figures, "area": total, "score": round(sum(a * s for a, s in present) / total, 4)}
    out.write("], " + json.dumps(tail)[1:])
