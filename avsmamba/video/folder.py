"""A folder of pictures as a video, with at most one wav."""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from avsmamba.utils import UserError
from avsmamba.video.container import TOLERANCE, TimedPicture, warn

SUFFIXES = (".png", ".jpg", ".jpeg")
ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # of Pillow, for an unreadable file
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that swap width and height


def find_wav(path: Path) -> Path | None:
    """Return the wav of a folder, None without one.

    Raises:
        UserError: if there are several.
    """
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".wav" and not file.name.startswith("."))
    if len(files) > 1:
        raise UserError(f"{path}: expected at most one wav, got {', '.join(file.name for file in files)}")
    return files[0] if files else None


class PictureFolder:
    """`PictureSource` of a folder: pictures in natural order, each shown for 1 / rate seconds.

    Raises:
        ValueError: if the rate is not positive.
        UserError: if there is no picture, none can be read, or one has another size than the first.
    """

    def __init__(self, path: Path, rate: float):
        if not 0 < rate < float("inf"):
            raise ValueError(f"picture_rate: expected a positive number, got {rate}")
        self.path, self.rate = path, rate
        names = sorted((file.name for file in path.iterdir() if not file.name.startswith(".")), key=_natural)
        self.files = [path / name for name in names if name.lower().endswith(SUFFIXES)]
        if not self.files:
            raise UserError(f"{path}: expected a folder with png or jpg pictures, got none")
        sizes = {file: size for file in self.files if (size := _size(file))}
        if not sizes:
            raise UserError(f"{path}: none of its {len(self.files)} pictures can be read")
        first, (self.width, self.height) = next(iter(sizes.items()))
        for file, (width, height) in sizes.items():
            if (width, height) != (self.width, self.height):
                expected = f"{self.width} x {self.height} as {first.name}"
                raise UserError(f"{file}: expected a picture of {expected}, got {width} x {height}")
        self.duration = len(self.files) / rate
        self.frame_rate = Fraction(rate).limit_denominator(100_000)

    def timed(self, start: float) -> Iterator[TimedPicture]:
        """See `PictureSource`."""
        for k in range(max(0, floor(start * self.rate + TOLERANCE)), len(self.files)):
            yield k / self.rate, (k + 1) / self.rate, partial(self._picture, k)

    def _picture(self, index: int) -> np.ndarray:
        """Read a picture; one that cannot be read is replaced by the last readable one before it, else the next."""
        for k in [*range(index, -1, -1), *range(index + 1, len(self.files))]:
            picture = _read(self.files[k])
            if picture is not None and picture.shape[:2] == (self.height, self.width):
                return picture
            if k == index:
                warn(f"{self.files[k]}: cannot be read as a picture and is replaced by the one before it")
        raise UserError(f"{self.path}: none of its pictures can be read")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts 'x2' before 'x10'."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name)]


def _read(path: Path) -> np.ndarray | None:
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except ERRORS:
        return None


def _size(path: Path) -> tuple[int, int] | None:
    """Return width and height of an upright picture from its header, None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            size = picture.size
            return size[::-1] if picture.getexif().get(ORIENTATION) in TRANSPOSED else size
    except ERRORS:
        return None
