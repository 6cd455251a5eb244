"""A folder of pictures and a wav as a video."""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from avsmamba.utils import UserError
from avsmamba.video.container import warn
from avsmamba.video.reader import CLOSE, Timed, VideoInfo
from avsmamba.video.sound import Sound

PICTURES = (".png", ".jpg", ".jpeg")
FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of a file that Pillow cannot read
TURNED = (5, 6, 7, 8)  # of EXIF's orientations, those that swap width and height


def open_folder(path: Path, rate: float) -> tuple[VideoInfo, "Folder", Sound | None]:
    """The parts of a `Video` from a folder.

    Raises:
        UserError: if there are no pictures, one is of another size than the first, none can be read, or there is more
            than one wav.
    """
    if not 0 < rate < float("inf"):
        raise ValueError(f"picture_rate: expected a positive number, got {rate}")
    files = sorted(path.iterdir(), key=lambda file: _natural(file.name))
    pictures = [file for file in files if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    if not pictures:
        raise UserError(f"{path}: expected a folder with png or jpg pictures, got none")
    folder = Folder(path, pictures, rate)
    wav = find_wav(path)
    sound = Sound(wav) if wav else None
    heard = (None, None) if sound is None else (sound.sample_rate, sound.channels)
    average = Fraction(rate).limit_denominator(100_000)
    return VideoInfo(path, folder.width, folder.height, len(pictures) / rate, average, *heard), folder, sound


def find_wav(path: Path) -> Path | None:
    """The wav of a folder, if there is one.

    Raises:
        UserError: if there are several.
    """
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".wav" and not file.name.startswith("."))
    if len(files) > 1:
        raise UserError(f"{path}: expected at most one wav, got {', '.join(file.name for file in files)}")
    return files[0] if files else None


class Folder:
    """Pictures of a folder, each shown for 1 / rate seconds; one that cannot be read keeps the one before it."""

    def __init__(self, path: Path, pictures: list[Path], rate: float):
        self.path, self.rate = path, rate
        sizes = [(file, _size(file)) for file in pictures]
        known = [(file, size) for file, size in sizes if size]
        if not known:
            raise UserError(f"{path}: none of its {len(pictures)} pictures can be read")
        self.files = pictures
        self.width, self.height = known[0][1]
        for file, size in known:
            if size != (self.width, self.height):
                expected = f"{self.width} x {self.height} as {known[0][0].name}"
                raise UserError(f"{file}: expected a picture of {expected}, got {size[0]} x {size[1]}")

    def timed(self, start: float) -> Iterator[Timed]:
        """See `PictureSource`."""
        for k in range(max(0, floor(start * self.rate + CLOSE)), len(self.files)):
            yield k / self.rate, (k + 1) / self.rate, partial(self._picture, k)

    def _picture(self, index: int) -> np.ndarray:
        for k in [*range(index, -1, -1), *range(index + 1, len(self.files))]:
            picture = _read(self.files[k])
            if picture is not None and picture.shape[:2] == (self.height, self.width):
                return picture
            if k == index:
                warn(f"{self.files[k]}: cannot be read as a picture; the one before it is taken")
        raise UserError(f"{self.path}: none of its pictures can be read")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts 'x2' before 'x10'."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name)]


def _read(path: Path) -> np.ndarray | None:
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except FAULTS:
        return None


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture as it is shown, from its header; None if it has none."""
    try:
        with Image.open(path) as picture:
            size = picture.size
            return size[::-1] if picture.getexif().get(0x0112) in TURNED else size
    except FAULTS:
        return None
