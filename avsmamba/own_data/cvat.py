"""Read and write "CVAT for video 1.1", the XML of CVAT (https://docs.cvat.ai/docs/other/xml_format)."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

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
from avsmamba.utils import UserError, atomic_write, one_line

SHAPES = ("polygon", "mask")
OTHER_SHAPES = ("box", "polyline", "points", "ellipse", "cuboid", "skeleton")


class Shape(NamedTuple):
    """One entry of a track: a polygon's points (x and y in turn) or a mask's code, in one frame."""

    frame: int
    outside: bool
    layer: int
    points: list[float] | None
    code: Mapping[str, str]


def read_cvat(path: Path, videos: Path, rate: float | None) -> LabelledVideo:
    """Return the video of a task.

    Labelled are the frames of the task: `start_frame` to `stop_frame`, by the step in `frame_filter`. A polygon's track
    is read as CVAT does: between two frames of the file it is interpolated, after the last one it stays, and `outside`
    ends it. CVAT has no tracks of masks: a mask is of its own frame.

    Args:
        path: XML file.
        videos: folder with the videos, or the one video.
        rate: pictures per second of a folder of pictures.

    Raises:
        UserError: if it is not such a file, has a shape other than `SHAPES`, or the video is missing.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: cannot be read as XML: {one_line(error)}") from None
    meta = root.find("meta/task")
    if meta is None:
        meta = root.find("meta/job")
    if root.tag != "annotations" or meta is None:
        raise UserError(f"{path}: expected <annotations> with <meta><task>: export a task as 'CVAT for video 1.1'")
    if root.find("image") is not None:
        raise UserError(f"{path}: has pictures (<image>), no tracks: export the task as 'CVAT for video 1.1'")
    tracks = [(f"{path}: track {t.get('id')}", _label(t, path), list(_shapes(t, path))) for t in root.iter("track")]
    source = root.findtext("meta/source") or meta.findtext("source") or meta.findtext("name") or path.stem
    place = find_video(videos, Path(source).stem, f"{path}: meta.source")
    frames = _frames(meta, path, tracks)
    size = meta.find("original_size")

    def read(index: int, size: Size) -> Objects:
        found = []
        for where, label, shapes in tracks:
            shape = _at(shapes, frames[index], where)
            if shape is not None:
                found.append((shape.layer, label, _mask(shape, size, f"{where}, frame {shape.frame}")))
        return [(label, mask) for _, label, mask in sorted(found, key=lambda f: f[0])]

    return LabelledVideo(
        stem_of(place),
        place,
        str(path),
        frames,
        read,
        size=None if size is None else (_number(size, "height", path), _number(size, "width", path)),
        rate=rate,
        categories=[*dict.fromkeys(n.text or "" for n in meta.iterfind("labels/label/name"))]
        or [*dict.fromkeys(label for _, label, _ in tracks)],
    )


def _label(track: Element, path: Path) -> str:
    label = track.get("label")
    if not label:
        raise UserError(f"{path}: track {track.get('id')}: has no label")
    return label


def _number(parent: Element, name: str, path: Path, default: int | None = None) -> int:
    text = parent.findtext(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UserError(f"{path}: meta.{parent.tag}.{name}: expected a number, got {text!r}") from None


def _frames(meta: Element, path: Path, tracks: Sequence[tuple[str, str, Sequence[Shape]]]) -> range:
    """Return the numbers of the task's frames; each track's must be among them."""
    start = _number(meta, "start_frame", path, 0)
    filtered = (meta.findtext("frame_filter") or "").strip() or "step=1"
    if not re.fullmatch(r"step=[1-9]\d*", filtered):
        raise UserError(f"{path}: meta.task.frame_filter: expected step=N, got {filtered!r}")
    step = int(filtered.removeprefix("step="))
    stop = _number(meta, "stop_frame", path, start + (_number(meta, "size", path, 1) - 1) * step)
    frames = range(start, stop + 1, step)
    for where, _, shapes in tracks:
        for shape in shapes:
            if not shape.outside and not start <= shape.frame <= stop:
                raise UserError(f"{where}: frame {shape.frame} is not in the task's frames {start} to {stop}")
    return frames


def _shapes(track: Element, path: Path) -> Iterator[Shape]:
    """Yield the entries of a track by frame."""
    entries = []
    for entry in track:
        where = f"{path}: track {track.get('id')}"
        if entry.tag in OTHER_SHAPES:
            raise UserError(f"{where}: a {entry.tag} is no outline; expected polygons and masks")
        if entry.tag not in SHAPES:
            continue
        try:
            points = None
            if entry.tag == "polygon":
                points = [float(v) for pair in entry.attrib["points"].split(";") for v in pair.split(",")]
            outside, layer = entry.get("outside") == "1", int(entry.get("z_order") or 0)
            entries.append(Shape(int(entry.attrib["frame"]), outside, layer, points, entry.attrib))
        except (KeyError, ValueError) as error:
            raise UserError(f"{where}: {entry.tag} of frame {entry.get('frame')}: {error!r}") from None
    yield from sorted(entries, key=lambda shape: shape.frame)


def _at(shapes: Sequence[Shape], frame: int, where: str) -> Shape | None:
    """Return the shape of a track in a frame, None if it is not visible."""
    place = bisect_right(shapes, frame, key=lambda shape: shape.frame)
    before = shapes[place - 1] if place else None
    if before is None or before.outside or (before.points is None and before.frame < frame):
        return None
    after = shapes[place] if place < len(shapes) else None
    if before.frame == frame or before.points is None or after is None or after.outside or after.points is None:
        return before
    if len(before.points) != len(after.points):
        counts = f"{len(before.points) // 2} and {len(after.points) // 2}"
        raise UserError(
            f"{where}: the polygons of frames {before.frame} and {after.frame} have {counts} points, so that frame "
            f"{frame} cannot be interpolated; an export of CVAT itself has every frame of the task"
        )
    share = (frame - before.frame) / (after.frame - before.frame)
    points = [(1 - share) * a + share * b for a, b in zip(before.points, after.points, strict=True)]
    return before._replace(points=points)


def _mask(shape: Shape, size: Size, where: str) -> Mask:
    if shape.points is not None:
        return polygon_mask([shape.points], size, where)
    try:
        runs = [int(n) for n in shape.code["rle"].split(",")]
        left, top, width, height = (int(shape.code[k]) for k in ("left", "top", "width", "height"))
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: expected rle, left, top, width and height of a mask: {error!r}") from None
    if min(left, top) < 0 or left + width > size[1] or top + height > size[0]:
        box = f"{width} x {height} at ({left}, {top})"
        raise UserError(f"{where}: a mask of {box} is outside the picture of {size[1]} x {size[0]}")
    if min(runs) < 0 or sum(runs) != width * height:
        raise UserError(f"{where}: expected runs of {width * height} pixels, got {sum(runs)}")
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, -1)
    return mask


def write_cvat(
    path: Path, video: LabelledVideo, size: Size, count: int, numbers: Sequence[int], labels: Sequence[str]
) -> None:
    """Write the labels of a video for CVAT's import "CVAT 1.1" into a task of this video.

    A mask is a track of one frame with `outside` in the next, as CVAT exports a mask.

    Args:
        path: XML file.
        video: its labels.
        size: of its pictures.
        count: number of its pictures.
        numbers: number of the picture of each labelled frame.
        labels: names of all categories.

    Raises:
        UserError: if the labels are of another size, or the file cannot be written.
    """
    check_size(video.size or size, size, video.where)
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    meta = SubElement(SubElement(root, "meta"), "task")
    for name, text in (
        ("name", video.name),
        ("size", count),
        ("mode", "interpolation"),
        ("start_frame", 0),
        ("stop_frame", count - 1),
        ("frame_filter", ""),
    ):
        SubElement(meta, name).text = str(text)
    listed = SubElement(meta, "labels")
    for label in labels:
        SubElement(SubElement(listed, "label"), "name").text = label
    original = SubElement(meta, "original_size")
    SubElement(original, "width").text, SubElement(original, "height").text = str(size[1]), str(size[0])
    SubElement(meta, "source").text = video.path.name
    tracks = 0
    for index, number in enumerate(numbers):
        for layer, (category, mask) in enumerate(video.read(index, size)):
            if not mask.any():
                continue
            track = SubElement(root, "track", id=str(tracks), label=category, source="file")
            code = mask_code(mask)
            for frame, outside in ((number, "0"), (number + 1, "1")):
                if frame < count:
                    SubElement(
                        track,
                        "mask",
                        {"frame": str(frame), "keyframe": "1", "outside": outside, "occluded": "0", **code}
                        | {"z_order": str(layer)},
                    )
            tracks += 1
    ElementTree.indent(root)
    with atomic_write(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def mask_code(mask: Mask) -> dict[str, str]:
    """Return CVAT's code of a `(h, w)` mask that is not empty: runs within its box, row by row, background first."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ends = np.flatnonzero(np.diff(part.ravel().astype(np.int8), prepend=0, append=2))
    return {
        "rle": ", ".join(map(str, np.diff(ends, prepend=0).tolist())),
        "left": str(columns[0]),
        "top": str(rows[0]),
        "width": str(part.shape[1]),
        "height": str(part.shape[0]),
    }
