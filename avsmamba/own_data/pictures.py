"""Read masks from PNG files: a folder for each video, or CVAT's export "Segmentation mask 1.1"."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avsmamba.datasets.readers import attempt, read_class_colours, read_class_indices, read_frame, read_mask
from avsmamba.own_data.labelled import (
    UNNAMED,
    LabelledVideo,
    Mask,
    Objects,
    Size,
    check_size,
    find_video,
    read_lines,
    stem_of,
    trailing_number,
)
from avsmamba.utils import UserError

LABEL_MAP = "labelmap.txt"  # of "Segmentation mask 1.1"


def read_mask_folders(
    root: Path,
    videos: Path,
    classes: Sequence[str] | None,
    by_frame: bool,
    rate: float | None,
    faults: list[str],
) -> list[LabelledVideo]:
    """Return the videos that have a folder of PNG masks in `root`.

    The number at the end of a file's name is the second or the frame, from 0. Names `{folder}_{n}.png` count from 1, as
    in AVSBench and in `masks/` of `avsmamba predict`.

    Args:
        root: folder with a folder for each video.
        videos: folder with the videos, or the one video.
        classes: names by class index, the background first: masks hold class indices, or their colours. None: a pixel
            sounds if a channel exceeds half of full scale.
        by_frame: whether the numbers are those of frames, not seconds.
        rate: pictures per second of folders of pictures.
        faults: gets a line for each video that does not fit.

    Raises:
        UserError: if `root` has no folder.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{root}: expected a folder of PNG masks for each video, found none")
    found = [attempt(faults, _mask_folder, folder, videos, classes, by_frame, rate) for folder in folders]
    return [video for video in found if video is not None]


def _mask_folder(
    folder: Path, videos: Path, classes: Sequence[str] | None, by_frame: bool, rate: float | None
) -> LabelledVideo:
    place = find_video(videos, folder.name, str(folder))
    files = [p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")]
    if not files:
        raise UserError(f"{folder}: expected PNG masks, found none")
    pattern = re.compile(rf"{re.escape(folder.name)}_[1-9]\d*")
    first = 1 if all(pattern.fullmatch(p.stem) for p in files) else 0
    numbered = sorted((trailing_number(p.name, str(p)) - first, p) for p in files)
    for (number, a), (other, b) in pairwise(numbered):
        if number == other:
            raise UserError(f"{folder}: {a.name} and {b.name} have the same number")
    paths = [path for _, path in numbered]

    def read(index: int, size: Size) -> Objects:
        path = paths[index]
        labels = read_binary(path) if classes is None else read_indices(path)
        check_size(labels.shape, size, str(path))
        names = [UNNAMED] * 2 if classes is None else classes
        if labels.max() >= len(names):
            raise UserError(f"{path}: expected class indices below {len(names)}, got {labels.max()}")
        return [(names[i], labels == i) for i in np.unique(labels).tolist() if i]

    return LabelledVideo(
        stem_of(place),
        place,
        str(folder),
        [n for n, _ in numbered],
        read,
        timed=not by_frame,
        rate=rate,
        categories=[UNNAMED] if classes is None else classes[1:],
    )


def read_binary(path: Path) -> np.ndarray:
    """Read a mask as `(h, w)` uint8 of 0 and 1.

    Raises:
        UserError: also for grey values that are all dark but not 0: these are class indices.
    """
    mask = read_mask(path)
    if not mask.any() and _mode(path) == "L" and (values := np.unique(read_class_indices(path))).max() > 0:
        listed = ", ".join(map(str, values[:6]))
        raise UserError(f"{path}: expected grey values 0 and 255, got {listed}; class indices require --classes")
    return mask


def read_indices(path: Path) -> np.ndarray:
    """Read class indices `(h, w)` uint8 from grey or palette indices, else from AVSBench's colours."""
    return read_class_indices(path) if _mode(path) in ("L", "P") else read_class_colours(path)


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return str(picture.mode)
    except (OSError, SyntaxError, ValueError):
        return ""  # the reader of its pixels reports it


def read_segmentation_mask(root: Path, videos: Path, rate: float | None) -> LabelledVideo:
    """Return the video of a task that CVAT exported as "Segmentation mask 1.1".

    Labelled are the frames in `ImageSets/Segmentation/*.txt`; one without a file in `SegmentationClass/` is empty.

    Args:
        root: the unpacked export.
        videos: the one video, or the folder with a video of `root`'s name.
        rate: pictures per second of a folder of pictures.

    Raises:
        UserError: if a file is missing or the label map is faulty.
    """
    colours = _label_map(root / LABEL_MAP)
    lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    names = [line for p in lists for line in read_lines(p)]
    if not names:
        raise UserError(f"{root}: expected ImageSets/Segmentation/*.txt with the names of the frames")
    numbered = sorted((trailing_number(f"{name}.png", f"{lists[0]}: {name}"), name) for name in names)
    place = find_video(videos, root.name, str(root))

    def read(index: int, size: Size) -> Objects:
        path = root / "SegmentationClass" / f"{numbered[index][1]}.png"
        if not path.is_file():
            return []
        picture = read_frame(path)
        check_size(picture.shape[:2], size, str(path))
        found: dict[str, Mask] = {}
        packed = picture @ np.array([1 << 16, 1 << 8, 1], np.int32)
        for value in np.unique(packed).tolist():
            colour = (value >> 16, value >> 8 & 255, value & 255)
            if colour not in colours:
                raise UserError(f"{path}: no label of {LABEL_MAP} has the colour {colour}")
            found[colours[colour]] = packed == value
        found.pop("background", None)
        return list(found.items())

    frames, categories = [n for n, _ in numbered], [name for name in colours.values() if name != "background"]
    return LabelledVideo(stem_of(place), place, str(root), frames, read, rate=rate, categories=categories)


def _label_map(path: Path) -> Mapping[tuple[Any, ...], str]:
    """Return the labels by their colour from lines `label:r,g,b:parts:actions`."""
    colours: dict[tuple[Any, ...], str] = {(0, 0, 0): "background"}
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        try:
            label, colour = line.split(":")[:2]
            red, green, blue = map(int, colour.split(","))
        except ValueError:
            raise UserError(f"{path}: expected lines label:r,g,b, got {line!r}") from None
        colours[red, green, blue] = label.strip()
    return colours
