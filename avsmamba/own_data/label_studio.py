"""Read and write tasks of Label Studio: a picture for each labelled frame, masks as brush strokes."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from avsmamba.datasets.readers import attempt
from avsmamba.own_data.labelled import (
    LabelledVideo,
    Mask,
    Objects,
    Size,
    check_size,
    find_video,
    polygon_mask,
    stem_of,
)
from avsmamba.utils import UserError, atomic_write

# Bits of the four lengths in a code of brush strokes, as Label Studio's converter writes them.
LENGTH_BITS = (3, 4, 8, 16)
NAME, PICTURE = "masks", "image"  # of the tags in the labelling config

Task = Mapping[str, Any]


def read_label_studio(path: Path, tasks: Sequence[Task], videos: Path, faults: list[str]) -> list[LabelledVideo]:
    """Return the videos of an export "JSON" of tasks that `write_tasks` wrote: their data names the video and the time.

    A task's labels are its last annotation that was not cancelled; without one, its prediction; a task without either
    is not labelled.

    Args:
        path: of the file, for messages.
        tasks: content of the file.
        videos: folder with the videos, or the one video.
        faults: gets a line for each task or video that does not fit.
    """
    by_video: dict[str, list[tuple[float, str, Sequence[Any]]]] = defaultdict(list)
    for place, task in enumerate(tasks):
        where = f"{path}: tasks[{place}]"
        data = task.get("data") or {}
        if not isinstance(data.get("video"), str) or not isinstance(data.get("time"), (int, float)):
            faults.append(f"{where}.data: expected 'video' and 'time', which avsmamba import writes")
            continue
        result = _result(task)
        if result is not None:
            by_video[data["video"]].append((float(data["time"]), where, result))
    found = [attempt(faults, _of_video, path, name, entries, videos) for name, entries in by_video.items()]
    return [video for video in found if video is not None]


def _result(task: Task) -> Sequence[Any] | None:
    annotations = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    predictions = [p for p in task.get("predictions") or () if isinstance(p, dict)]
    chosen = (annotations or predictions)[-1:]
    return chosen[0].get("result") or () if chosen else None


def _of_video(path: Path, name: str, entries: list[tuple[float, str, Sequence[Any]]], videos: Path) -> LabelledVideo:
    place = find_video(videos, name, f"{path}: data.video")
    entries = sorted(entries, key=lambda entry: entry[0])

    def read(index: int, size: Size) -> Objects:
        _, where, result = entries[index]
        return [object_of(item, size, f"{where}: result {item.get('id')}") for item in result]

    values = [item.get("value") or {} for _, _, result in entries for item in result]
    names = [label for v in values for label in v.get("brushlabels") or v.get("polygonlabels") or ()]
    times, categories = [time for time, _, _ in entries], list(dict.fromkeys(names))
    return LabelledVideo(stem_of(place), place, f"{path}: {name}", times, read, timed=True, categories=categories)


def object_of(item: Mapping[str, Any], size: Size, where: str) -> tuple[str, Mask]:
    """Return category and mask of one region: brush strokes or a polygon.

    Raises:
        UserError: if it is of another kind or size, or damaged.
    """
    value = item.get("value") or {}
    labels = value.get("brushlabels") or value.get("polygonlabels")
    if not labels:
        raise UserError(f"{where}: expected brushlabels or polygonlabels, got {item.get('type')}")
    check_size((item.get("original_height"), item.get("original_width")), size, where)
    if "rle" in value:
        return labels[0], decode_brush(value["rle"], size, where)
    try:
        percent = np.array(value.get("points") or [], float).reshape(-1, 2)
    except (ValueError, TypeError):
        raise UserError(f"{where}: value.points: expected x and y of each point, percent") from None
    return labels[0], polygon_mask([(percent / 100 * np.array(size[::-1])).ravel().tolist()], size, where)


def write_tasks(
    folder: Path, videos: Iterable[tuple[LabelledVideo, Size, Sequence[str], Sequence[float]]], labels: Sequence[str]
) -> None:
    """Write `tasks.json` for Label Studio's import, and `config.xml`, the labelling config.

    A task shows a picture through Label Studio's local files: the path is relative to the folder that it serves.

    Args:
        folder: of both files.
        videos: each with the size of its pictures, the path of each labelled frame's picture relative to `folder`, and
            the time of each, s.
        labels: names of all categories.

    Raises:
        UserError: if labels are of another size than their picture.
    """
    tasks: list[Any] = []
    for video, size, pictures, times in videos:
        for index, (picture, time) in enumerate(zip(pictures, times, strict=True)):
            data = {PICTURE: f"/data/local-files/?d={picture}", "video": video.name, "time": time}
            result = [
                {
                    "id": f"{len(tasks)}-{number}",
                    "type": "brushlabels",
                    "from_name": NAME,
                    "to_name": PICTURE,
                    "original_width": size[1],
                    "original_height": size[0],
                    "image_rotation": 0,
                    "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [category]},
                }
                for number, (category, mask) in enumerate(video.read(index, size))
                if mask.any()
            ]
            tasks.append({"data": data, "predictions": [{"model_version": "avsmamba", "result": result}]})
    with atomic_write(folder / "tasks.json") as temporary:
        temporary.write_text(json.dumps(tasks) + "\n", encoding="utf-8")
    view = Element("View")
    SubElement(view, "Image", name=PICTURE, value=f"${PICTURE}")
    brush = SubElement(view, "BrushLabels", name=NAME, toName=PICTURE)
    for label in labels:
        SubElement(brush, "Label", value=label)
    ElementTree.indent(view)
    with atomic_write(folder / "config.xml") as temporary:
        ElementTree.ElementTree(view).write(temporary, encoding="utf-8")


def encode_brush(mask: Mask) -> list[int]:
    """Return Label Studio's code of a `(h, w)` mask, bytes: runs of the bytes of its RGBA picture, row by row.

    32 bits with the number of bytes, 5 with the bits of a value less 1, four times 4 with the bits of a length less 1;
    then for each run a bit 1, two bits that choose one of these lengths, the length less 1, and the value.
    """
    values = mask.ravel().astype(np.uint8)
    ends = np.flatnonzero(np.diff(values.astype(np.int8), append=2)) + 1
    bits = [f"{4 * values.size:032b}", f"{8 - 1:05b}", *(f"{n - 1:04b}" for n in LENGTH_BITS)]
    for end, length in zip(ends.tolist(), np.diff(ends, prepend=0).tolist(), strict=True):
        left = 4 * length  # four equal channels
        while left:
            run = min(left, 1 << LENGTH_BITS[-1])
            choice = next(i for i, n in enumerate(LENGTH_BITS) if run <= 1 << n)
            bits.append(f"1{choice:02b}{run - 1:0{LENGTH_BITS[choice]}b}{255 * values[end - 1]:08b}")
            left -= run
    text = "".join(bits)
    return [int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8)]


def decode_brush(code: Sequence[int], size: Size, where: str) -> Mask:
    """Decode a code of `encode_brush`, which may also have series of single values (a bit 0); a mask is its alpha.

    Raises:
        UserError: if it is damaged or of another number of pixels.
    """
    count = 4 * size[0] * size[1]
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(code))
        place = 53
        if int(bits[:32], 2) != count:
            raise ValueError(f"it is of {int(bits[:32], 2)} bytes, the picture of {count}")
        word = int(bits[32:37], 2) + 1
        lengths = [int(bits[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
        values = np.zeros(count, bool)
        done = 0
        while done < count:
            same, choice = bits[place] == "1", int(bits[place + 1 : place + 3], 2)
            run = int(bits[place + 3 : place + 3 + lengths[choice]], 2) + 1
            place += 3 + lengths[choice]
            number = 1 if same else run
            found = [int(bits[place + word * i : place + word * (i + 1)], 2) for i in range(number)]
            values[done : done + run] = np.array(found * run if same else found)[: count - done] > 0
            place += word * number
            done += run
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"{where}: value.rle: cannot be read as brush strokes: {error}") from None
    return np.ascontiguousarray(values.reshape(*size, 4)[..., 3])
