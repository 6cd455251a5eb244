"""Reading one file of a data set each: pictures, masks, sounds, pickled log-mel patches, the table of clips."""

import csv
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.storage import TypedStorage

from avsmamba.datasets.log_mel import HOP, NUM_MELS, PATCH_FRAMES, SAMPLE_RATE, WINDOW
from avsmamba.datasets.palette import to_indices
from avsmamba.utils import UserError

SPLITS = ("train", "val", "test")
PARTS = ("v1s", "v1m", "v2")  # of AVSS
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # pickled at the head of torch.save's older format
SHORTEST = (WINDOW + (PATCH_FRAMES - 1) * HOP) / SAMPLE_RATE  # of a sound that fills one patch, s


class Clip(NamedTuple):
    """One row of a table of clips.

    Attributes:
        name: of its files.
        category: of its folders; empty where the table has none.
        split: 'train', 'val' or 'test'.
        part: of AVSS: v1s, v1m or v2; else empty.
        heard: the kinds of things that sound in it; empty where that is not known.
        seen: the kinds that are known to be in its pictures: those heard and, where the table lists them, silent ones.
        lists_visible: whether the table lists all that the pictures show.
    """

    name: str
    category: str
    split: str
    part: str = ""
    heard: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()
    lists_visible: bool = False


def read_frame(path: Path) -> np.ndarray:
    """A picture as `(H, W, 3)` uint8 RGB; grey is repeated, transparency is dropped.

    Raises:
        UserError: if the file is missing or no picture.
    """
    # From memory: OpenCV cannot open some names on some systems, and warns on stderr of a missing file.
    data = np.frombuffer(_content(path, "a picture"), np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        picture = None
    if picture is None:
        raise UserError(f"{path}: cannot be read as a picture (empty, cut short or of another format)")
    return picture


def read_mask(path: Path) -> np.ndarray:
    """A binary mask as `(H, W)` uint8 of 0 and 1.

    Foreground is what exceeds half of full scale in any channel, so that 0/255, black and white palettes and coloured
    palettes read alike.

    Raises:
        UserError: if the file is missing or no picture.
    """
    red, green, blue = cv2.split(read_frame(path))
    return (cv2.max(cv2.max(red, green), blue) > 127).astype(np.uint8)


def read_class_indices(path: Path) -> np.ndarray:
    """A semantic mask as `(H, W)` uint8 of class indices, from grey values or from the places in a palette.

    Raises:
        UserError: if the file is missing, no picture, or of another kind.
    """
    content = _content(path, "a mask of class indices")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path}: cannot be read as a picture (empty, cut short or of another format)") from None
    if mode not in ("L", "P"):
        raise UserError(f"{path}: expected class indices as 8-bit grey or with a palette, got a picture of mode {mode}")
    return values


def read_class_colours(path: Path) -> np.ndarray:
    """A semantic mask as `(H, W)` uint8 of class indices, from its colours (`avsmamba.datasets.palette`).

    Raises:
        UserError: if the file is missing, no picture, or has a colour of no class.
    """
    try:
        return to_indices(read_frame(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """A sound as `(samples, channels)` float32 in [-1, 1], and its rate in Hz.

    Raises:
        UserError: if the file is missing, no sound, holds infinite values, or is too short for one log-mel patch.
    """
    import soundfile  # loads a C library that a data set with log-mel files does not need

    content = _content(path, "a wav")
    try:
        wave, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a wav: {_short(error)}") from None
    if len(wave) < SHORTEST * rate:
        raise UserError(f"{path}: expected a sound of at least {SHORTEST} s, got {len(wave) / rate:.3g} s")
    if not np.isfinite(wave).all():
        raise UserError(f"{path}: holds values that are not finite")
    return wave, int(rate)


def read_log_mel(path: Path, num_frames: int) -> Tensor:
    """The `(T, 1, 96, 64)` log-mel patches of a pickled tensor or array, see `fit_patches`; no code of it is run.

    Raises:
        UserError: if the file is missing, asks for anything but a tensor, or holds another shape.
    """
    patches = read_pickled_tensor(path)
    if patches.ndim != 4 or tuple(patches.shape[1:]) != (1, PATCH_FRAMES, NUM_MELS) or not len(patches):
        expected = f"({num_frames}, 1, {PATCH_FRAMES}, {NUM_MELS})"
        raise UserError(f"{path}: expected log-mel patches of shape {expected}, got {tuple(patches.shape)}")
    if not patches.isfinite().all():
        raise UserError(f"{path}: holds values that are not finite")
    return fit_patches(patches, num_frames)


def fit_patches(patches: Tensor, num_frames: int) -> Tensor:
    """Make `(P, ...)` patches `(T, ...)`: the last one is repeated, what is over is cut."""
    index = torch.arange(num_frames).clamp(max=len(patches) - 1)
    return patches[index].contiguous()


def read_pickled_tensor(path: Path) -> Tensor:
    """A float32 tensor from a file by `pickle.dump` or `torch.save`, of a tensor or a numeric array.

    The unpickler knows the few names that such a file needs; every other one is refused before it is called.

    Raises:
        UserError: if the file is missing, broken, or asks for anything else.
    """
    content = _content(path, "a pickled tensor")
    try:
        value = _load_pickle(content)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = torch.from_numpy(np.ascontiguousarray(value))
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: cannot be read as a pickled tensor: {_short(error)}") from None
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"{path}: expected a pickled tensor, got {type(value).__name__}")
    return value.detach().float()


def _load_pickle(content: bytes) -> Any:
    if content[:4] == b"PK\x03\x04":
        return _torch_load(content)
    value = _TensorUnpickler(io.BytesIO(content)).load()
    return _torch_load(content) if isinstance(value, int) and value == TORCH_MAGIC else value


def _torch_load(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _TensorUnpickler(pickle.Unpickler):
    """Finds only what a tensor or an array is rebuilt from, and never torch's own `_load_from_bytes`."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        # New functions for each file: a pickle can set attributes on whatever it is given.
        self.known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": lambda *args: _tensor(*args[:4]),
            "torch._utils._rebuild_parameter": lambda *args: args[0],
            "torch.storage._load_from_bytes": lambda content: _torch_load(content),
            "torch.nn.parameter.Parameter": lambda *args: args[0],
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes in numpy's protocol 2
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": _new_array,
            "numpy.core.numeric._frombuffer": _array,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a tensor does not need")
        return self.known[full]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside the file")


def _tensor(storage: Any, offset: int, size: Any, stride: Any) -> Tensor:
    if not isinstance(storage, TypedStorage):
        raise pickle.UnpicklingError("its tensor has no storage")
    flat = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)
    return torch.as_strided(flat, tuple(size), tuple(stride), offset)  # checks the bounds, unlike set_


def _new_array(*_: Any) -> np.ndarray:
    return np.ndarray((0,), "b")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape, order="F" if order == "F" else "C").copy()


def read_clips(path: Path, category_column: int | None = None) -> list[Clip]:
    """Read a table of clips: the name in column 0, a column headed `split`, and where it is asked for a category.

    Two more columns are read where they are: `category` (what sounds) and `visible` (all that the pictures show), each
    with `+` between several kinds.

    Raises:
        UserError: if the file is missing, has no such columns, or a row is faulty (all faulty rows are named).
    """
    header, rows = read_table(path)
    columns = {"name": 0, "split": _column(header, "split", path)}
    if category_column is not None:
        columns["category"] = category_column
        if len(header) <= category_column:
            raise UserError(f"{path}: expected the category in column {category_column + 1}, got {', '.join(header)}")
    clips = make_clips(path, header, rows, columns, {"split": SPLITS}, ("name", "category"))
    heard_column = header.index("category") if "category" in header and category_column is None else category_column
    visible_column = header.index("visible") if "visible" in header else None
    result = []
    for clip, (_, row) in zip(clips, rows, strict=True):
        heard, visible = _kinds(row, heard_column), _kinds(row, visible_column)
        result.append(clip._replace(heard=heard, seen=heard | visible, lists_visible=bool(visible)))
    return result


def read_semantic_clips(path: Path) -> list[Clip]:
    """Read AVSS's table: columns headed `uid` (the name), `a_obj` (the category), `split` and `label` (the part).

    Raises:
        UserError: as `read_clips`.
    """
    header, rows = read_table(path)
    heads = {"name": "uid", "category": "a_obj", "split": "split", "part": "label"}
    columns = {field: _column(header, head, path) for field, head in heads.items()}
    return make_clips(path, header, rows, columns, {"split": SPLITS, "part": PARTS}, ("name",))


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a comma-separated table, and its rows with their numbers; blank rows are left out.

    Raises:
        UserError: if the file is missing or no such table.
    """
    try:
        text = _content(path, "a table of clips").decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as comma-separated text: {_short(error)}") from None
    cells = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows, 1)]
    return (cells[0][1] if cells else []), [(number, row) for number, row in cells[1:] if any(row)]


def make_clips(
    path: Path,
    header: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    columns: Mapping[str, int],
    choices: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> list[Clip]:
    """The clips of a table's rows.

    Args:
        path: the table, for messages.
        header: its heads.
        rows: as `read_table` gives them.
        columns: where each field of a clip stands.
        choices: what a field may be.
        names: the fields that become names of files.

    Raises:
        UserError: naming all faulty rows.
    """
    clips, faults = [], []
    for number, row in rows:
        if len(row) <= max(columns.values()):
            faults.append(f"row {number}: expected {len(header)} columns, got {len(row)}")
            continue
        fields = {field: row[column] for field, column in columns.items()}
        wrong = [field for field, known in choices.items() if fields[field] not in known]
        if wrong:
            expected, got = ", ".join(choices[wrong[0]]), fields[wrong[0]]
            faults.append(f"row {number}: expected one of {expected} under {header[columns[wrong[0]]]!r}, got {got!r}")
        elif not all(_is_name(fields[name]) for name in names if name in fields):
            got = ", ".join(repr(fields[name]) for name in names if name in fields)
            faults.append(f"row {number}: expected names of files, got {got}")
        else:
            name, category, split, part = (fields.get(key, "") for key in ("name", "category", "split", "part"))
            clips.append(Clip(name, category, split, part))
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}")
    return clips


def _column(header: Sequence[str], name: str, path: Path) -> int:
    if name not in header:
        raise UserError(f"{path}: expected a column {name!r}, got {', '.join(header) or 'an empty file'}")
    return header.index(name)


def _kinds(cells: Sequence[str], column: int | None) -> frozenset[str]:
    text = cells[column] if column is not None and column < len(cells) else ""
    return frozenset(part.strip() for part in text.split("+") if part.strip())


def _is_name(text: str) -> bool:
    """Whether a name stays in its folder: names of clips become paths, of files that are written too."""
    return text not in ("", ".", "..") and not re.search(r"[/\\\0]", text)


def _content(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."
