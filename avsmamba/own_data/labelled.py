"""Videos with masks as the readers of this package return them, and what the readers share."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from avsmamba.utils import UserError, one_line

Mask = NDArray[np.bool_]
Objects = list[tuple[str, Mask]]  # category and `(h, w)` mask; where two overlap, the later one covers the earlier
Size = tuple[int, int]  # height and width, pixels
UNNAMED = "sounding"  # category of masks without classes, as in `masks.json` of a model with one class
OUTSIDE = 1.0  # pixels that a polygon may exceed the picture by: tools draw along the border


@dataclass(frozen=True)
class LabelledVideo:
    """One video and its labelled frames.

    Attributes:
        name: stem of its clips' names.
        path: video file, or folder of pictures with at most one wav.
        where: file and key that list it, for messages.
        frames: labelled frames, ascending: numbers of pictures from 0 or, if `timed`, seconds.
        read: returns the objects of the frame at an index of `frames`; the size is that of the video's pictures.
        timed: whether `frames` are seconds.
        size: height and width by the labels' file, pixels; None if it has none.
        rate: pictures per second of a folder; None if unknown.
        categories: all categories that the labels' file names.
    """

    name: str
    path: Path
    where: str
    frames: Sequence[float]
    read: Callable[[int, Size], Objects]
    timed: bool = False
    size: Size | None = None
    rate: float | None = None
    categories: Sequence[str] = ()


def find_video(videos: Path, name: str, where: str) -> Path:
    """Return the file or folder of pictures of a video.

    Args:
        videos: folder with the videos, or the one video itself, which is returned whatever its name.
        name: of a file or folder, with or without the suffix, possibly with folders before it.
        where: file and key that name it, for the message.

    Raises:
        UserError: if there is none, or several have this name.
    """
    if videos.is_file():
        return videos
    if not videos.is_dir():
        raise UserError(f"--videos: no such file or folder: {videos}")
    if name and (videos / name).exists():
        return videos / name
    stem = Path(name).name
    found = sorted(p for p in videos.iterdir() if stem in (p.name, p.stem) and not p.name.startswith("."))
    if len(found) != 1:
        what = f"several: {', '.join(p.name for p in found)}" if found else "none"
        raise UserError(f"{where}: expected one video {name!r} in {videos}, found {what}")
    return found[0]


def stem_of(path: Path) -> str:
    """Return the name of a video's clips: a file's without its suffix."""
    return path.name if path.is_dir() else path.stem


def polygon_mask(polygons: Sequence[Sequence[float]], size: Size, where: str) -> Mask:
    """Fill polygons as pycocotools does.

    Args:
        polygons: x and y in turn, pixels.
        size: of the mask.
        where: file and key, for messages.

    Raises:
        UserError: if a polygon has fewer than three points or exceeds the picture by more than `OUTSIDE`.
    """
    height, width = size
    for polygon in polygons:
        try:
            points = np.array(polygon, float).reshape(-1, 2)
        except (ValueError, TypeError):
            raise UserError(f"{where}: expected polygons, x and y of their points in turn, got {polygon!r}") from None
        if len(points) < 3:
            raise UserError(f"{where}: expected a polygon of at least three points, got {len(points)}")
        outside = (points < -OUTSIDE) | (points > np.array([width, height]) + OUTSIDE) | ~np.isfinite(points)
        if outside.any():
            x, y = points[outside.any(axis=1)][0]
            raise UserError(f"{where}: point ({x:g}, {y:g}) is outside the picture of {width} x {height}")
    codes = coco.frPyObjects([list(map(float, p)) for p in polygons], height, width)
    return np.ascontiguousarray(coco.decode(coco.merge(codes)), bool)


def run_length_mask(code: Any, size: Size, where: str) -> Mask:
    """Decode a run-length code of COCO: `size`, and `counts` as a list (column by column) or compressed to a string.

    Raises:
        UserError: if it is no such code, or of another size.
    """
    counts = code.get("counts") if isinstance(code, dict) else None
    if not isinstance(counts, (list, str)) or not isinstance(code.get("size"), list):
        raise UserError(f"{where}: expected a run-length code with size and counts, got {str(code)[:60]}")
    check_size(code["size"], size, where)
    try:
        runs = counts if isinstance(counts, list) else _uncompressed(counts)
        if sum(runs) != size[0] * size[1] or min(runs) < 0:
            raise ValueError(f"its counts add up to {sum(runs)} pixels of {size[0] * size[1]}")
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{where}: cannot be read as a run-length code: {one_line(error)}") from None
    return np.ascontiguousarray(values.reshape(size[::-1]).T)


def _uncompressed(text: str) -> list[int]:
    """Return the counts of a compressed code.

    pycocotools (2.0.11) returns uninitialized pixels for a code that is too short. A count is written in groups of five
    bits, the lowest first, with a sixth bit if more follow; from the fourth count on it is the difference to the count
    before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for char in text:
        group = ord(char) - 48
        if not 0 <= group < 64:
            raise ValueError(f"unexpected character {char!r}")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (group & 16) << (shift - 4)  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def check_size(found: Sequence[Any], size: Size, where: str) -> None:
    """Raise a UserError if labels are of another height and width than the video's pictures."""
    if tuple(found) != tuple(size):
        height, width = found if len(found) == 2 else (found, "?")
        raise UserError(f"{where}: expected labels of the video's {size[1]} x {size[0]} pixels, got {width} x {height}")


def trailing_number(name: str, where: str) -> int:
    """Return the number at the end of a file's name, without the suffix.

    Raises:
        UserError: if there is none.
    """
    stem = Path(name).stem
    digits = stem[len(stem.rstrip("0123456789")) :]
    if not digits:
        raise UserError(f"{where}: expected a name that ends with the number of its frame, got {Path(name).name!r}")
    return int(digits)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without the space around them.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text: {one_line(error)}") from None
    return [line.strip() for line in lines if line.strip()]


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {one_line(error)}") from None
