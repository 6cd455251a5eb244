"""Readers of one file each: frames, masks, waveforms and log-mel patches."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from avsmamba.datasets.log_mel import HOP, NUM_MELS, PATCH_FRAMES, SAMPLE_RATE, WINDOW
from avsmamba.datasets.palette import to_indices
from avsmamba.datasets.safe_pickle import load_tensor
from avsmamba.utils import UserError, one_line

SHORTEST = (WINDOW + (PATCH_FRAMES - 1) * HOP) / SAMPLE_RATE  # s; a shorter waveform does not fill one patch
NO_PICTURE = "cannot be read as a picture (empty, cut short or of another format)"


class Source(Protocol):
    """A path, or a file in memory; its text names it in errors."""

    def read_bytes(self) -> bytes:
        """Return the content."""


class Content:
    """A file in memory.

    Args:
        name: for errors.
        content: bytes.
    """

    def __init__(self, name: str, content: bytes):
        self.name, self.content = name, content

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.content


def read_frame(path: Source) -> np.ndarray:
    """Read a picture as `(H, W, 3)` uint8 RGB; grey is repeated, transparency is dropped.

    Raises:
        UserError: if the file is missing or not a picture.
    """
    # From memory: OpenCV cannot open some names on some systems, and warns on stderr about a missing file.
    data = np.frombuffer(read_content(path, "a picture"), np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        picture = None
    if picture is None:
        raise UserError(f"{path}: {NO_PICTURE}")
    return picture


def read_mask(path: Source) -> np.ndarray:
    """Read a binary mask as `(H, W)` uint8 of 0 and 1.

    A pixel is foreground if any channel exceeds half of full scale, so that 0/255 and any palette read alike.

    Raises:
        UserError: if the file is missing or not a picture.
    """
    red, green, blue = cv2.split(read_frame(path))
    return (cv2.max(cv2.max(red, green), blue) > 127).astype(np.uint8)


def read_class_indices(path: Source) -> np.ndarray:
    """Read a semantic mask as `(H, W)` uint8 class indices, from grey values or palette indices.

    Raises:
        UserError: if the file is missing, not a picture, or of another mode.
    """
    content = read_content(path, "a mask of class indices")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path}: {NO_PICTURE}") from None
    if mode not in ("L", "P"):
        raise UserError(f"{path}: expected class indices as 8-bit grey or with a palette, got a picture of mode {mode}")
    return values


def read_class_colours(path: Source) -> np.ndarray:
    """Read a semantic mask as `(H, W)` uint8 class indices, from the colours of `avsmamba.datasets.palette`.

    Raises:
        UserError: if the file is missing, not a picture, or has a colour of no class.
    """
    try:
        return to_indices(read_frame(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_wav(path: Source) -> tuple[np.ndarray, int]:
    """Read a waveform as `(samples, channels)` float32 in [-1, 1], and its sample rate in Hz.

    Raises:
        UserError: if the file is missing, not a sound, holds non-finite values, or is shorter than `SHORTEST`.
    """
    import soundfile  # loads a C library that a data set with log-mel files does not need

    content = read_content(path, "a wav")
    try:
        wave, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a wav: {one_line(error)}") from None
    if len(wave) < SHORTEST * rate:
        raise UserError(f"{path}: expected a sound of at least {SHORTEST} s, got {len(wave) / rate:.3g} s")
    if not np.isfinite(wave).all():
        raise UserError(f"{path}: holds values that are not finite")
    return wave, int(rate)


def read_log_mel(path: Source, num_frames: int) -> Tensor:
    """Read `(T, 1, 96, 64)` float32 log-mel patches from a pickled tensor or array; no code of the file is executed.

    Raises:
        UserError: if the file is missing, holds anything but a tensor, or one of another shape.
    """
    return fit_patches(checked_patches(read_pickled_tensor(path), path, num_frames), num_frames)


def checked_patches(patches: Tensor, path: Source, num_frames: int) -> Tensor:
    """Return log-mel patches of any number unchanged.

    Raises:
        UserError: naming the file, if they have another shape or values that are not finite.
    """
    if patches.ndim != 4 or tuple(patches.shape[1:]) != (1, PATCH_FRAMES, NUM_MELS) or not len(patches):
        expected = f"({num_frames}, 1, {PATCH_FRAMES}, {NUM_MELS})"
        raise UserError(f"{path}: expected log-mel patches of shape {expected}, got {tuple(patches.shape)}")
    if not patches.isfinite().all():
        raise UserError(f"{path}: holds values that are not finite")
    return patches


def read_pickled_tensor(path: Source) -> Tensor:
    """Read a float32 tensor from a file of `pickle.dump` or `torch.save`; no code of the file is executed.

    Raises:
        UserError: if the file is missing, damaged, or holds anything else.
    """
    content = read_content(path, "a pickled tensor")
    try:
        value = load_tensor(content)
    except Exception as error:  # a damaged pickle raises nearly any type
        raise UserError(f"{path}: cannot be read as a pickled tensor: {one_line(error)}") from None
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"{path}: expected a pickled tensor, got {type(value).__name__}")
    return value.detach().float()


def fit_patches(patches: Tensor, num_frames: int) -> Tensor:
    """Return `(P, ...)` patches as `(T, ...)`: the last one is repeated, excess ones are cut off."""
    index = torch.arange(num_frames).clamp(max=len(patches) - 1)
    return patches[index].contiguous()


def read_content(path: Source, what: str) -> bytes:
    """Return the bytes of a file; `what` names the expected content in the error.

    Raises:
        UserError: if the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def attempt(faults: list[str], function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`; if it raises a UserError, append its message to `faults` and return None."""
    try:
        return function(*args)
    except UserError as error:
        faults.append(str(error))
        return None


def read_all(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], faults: list[str], exact: bool = True
) -> list[np.ndarray | None]:
    """Read all pictures of one folder; one that cannot be read is None and adds to `faults`.

    With `exact` the folder must hold these files of their suffix and no others.
    """
    folder, suffix = paths[0].parent, paths[0].suffix
    span = paths[0].name if len(paths) == 1 else f"{len(paths)} pictures {paths[0].name} to {paths[-1].name}"
    try:
        found = {name for name in os.listdir(folder) if name.endswith(suffix)}
    except OSError:
        faults.append(f"{folder}: no such folder; expected {span}")
        return [None] * len(paths)
    missing = [path.name for path in paths if path.name not in found]
    other = sorted(found - {path.name for path in paths}) if exact else []
    if missing or other:
        notes = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (other, "unexpected")) if names]
        faults.append(f"{folder}: expected {span}, found {len(found)}: {'; '.join(notes)}")
    return [None if path.name in missing else attempt(faults, read, path) for path in paths]


def pixels(picture: np.ndarray) -> str:
    """Return the size of a picture in words."""
    return f"{picture.shape[0]} x {picture.shape[1]} pixels"
