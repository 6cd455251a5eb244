"""Readers of the tables of clips: `s4_meta_data.csv`, `ms3_meta_data.csv` and AVSS's `metadata.csv`."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avsmamba.datasets.readers import read_content
from avsmamba.utils import UserError

SPLITS = ("train", "val", "test")
PARTS = ("v1s", "v1m", "v2")  # of AVSS
CHOICES = {"split": SPLITS, "part": PARTS}


class Clip(NamedTuple):
    """One row of a table of clips.

    Attributes:
        name: stem or folder of its files.
        split: 'train', 'val' or 'test'.
        category: name of its folder in S4, `a_obj` in AVSS; empty in MS3.
        part: 'v1s', 'v1m' or 'v2' in AVSS, else empty.
        sounding: kinds of objects that sound; empty if unknown.
        visible: kinds known to be visible: the sounding ones and, if the table lists them, silent ones.
        lists_visible: whether the table lists all visible kinds.
        place: number of the clip in the index of its shards; -1 in a folder of files.
    """

    name: str
    split: str
    category: str = ""
    part: str = ""
    sounding: frozenset[str] = frozenset()
    visible: frozenset[str] = frozenset()
    lists_visible: bool = False
    place: int = -1


def read_clips(path: Path, category_column: int | None = None) -> list[Clip]:
    """Read a table with the name in column 0, a column headed `split` and, if `category_column` is set, a category.

    Two optional columns, `category` (what sounds) and `visible` (all that is visible), hold kinds joined by `+`.

    Raises:
        UserError: if the file is missing, lacks a column, or has faulty rows (all are named).
    """
    header, rows = read_table(path)
    columns = {"name": 0, "split": _column(header, "split", path)}
    if category_column is not None:
        columns["category"] = category_column
        if len(header) <= category_column:
            raise UserError(f"{path}: expected the category in column {category_column + 1}, got {', '.join(header)}")
    clips = _clips(path, header, rows, columns, ("name", "category"))
    places = {name: header.index(name) for name in ("category", "visible") if name in header}
    if category_column is not None:
        places["category"] = category_column
    result = []
    for clip, row in zip(clips, rows.values(), strict=True):
        sounding, listed = (_kinds(row, places.get(name)) for name in ("category", "visible"))
        result.append(clip._replace(sounding=sounding, visible=sounding | listed, lists_visible=bool(listed)))
    return result


def read_semantic_clips(path: Path) -> list[Clip]:
    """Read AVSS's table: columns `uid` (the name), `a_obj` (the category), `split` and `label` (the part).

    Raises:
        UserError: as `read_clips`.
    """
    header, rows = read_table(path)
    heads = {"name": "uid", "category": "a_obj", "split": "split", "part": "label"}
    return _clips(path, header, rows, {field: _column(header, head, path) for field, head in heads.items()}, ("name",))


def read_table(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return the header of a comma-separated table and its rows by number; blank rows are skipped.

    Raises:
        UserError: if the file is missing or not such a table.
    """
    try:
        text = read_content(path, "a table of clips").decode("utf-8-sig")
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as comma-separated text: {error}") from None
    return (rows[0] if rows else []), {number: row for number, row in enumerate(rows[1:], 2) if any(row)}


def _clips(
    path: Path,
    header: Sequence[str],
    rows: Mapping[int, Sequence[str]],
    columns: Mapping[str, int],
    file_names: Sequence[str],
) -> list[Clip]:
    """Return the clips of a table's rows.

    Args:
        path: of the table, for messages.
        header: names of its columns.
        rows: cells by row number.
        columns: column of each field of `Clip`.
        file_names: fields that become names of files; they must not leave their folder.

    Raises:
        UserError: naming all faulty rows.
    """
    clips, faults = [], []
    for number, row in rows.items():
        if len(row) <= max(columns.values()):
            faults.append(f"row {number}: expected {len(header)} columns, got {len(row)}")
            continue
        fields = {field: row[column] for field, column in columns.items()}
        wrong = next((field for field, known in CHOICES.items() if field in fields and fields[field] not in known), "")
        names = [fields[field] for field in file_names if field in fields]
        if wrong:
            expected, head = ", ".join(CHOICES[wrong]), header[columns[wrong]]
            faults.append(f"row {number}: expected one of {expected} under {head!r}, got {fields[wrong]!r}")
        elif any(name in ("", ".", "..") or re.search(r"[/\\\0]", name) for name in names):
            faults.append(f"row {number}: expected names of files, got {', '.join(map(repr, names))}")
        else:
            clips.append(Clip(fields["name"], fields["split"], fields.get("category", ""), fields.get("part", "")))
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


def find_folder(root: Path, name: str, table: str) -> Path:
    """Return `root/name`, or `root` itself if it holds `table`.

    Raises:
        UserError: if neither exists.
    """
    for folder in (root / name, root):
        if (folder / table).is_file():
            return folder
    if not root.is_dir():
        raise UserError(f"data_root: no such folder: {root} (--data-root or AVSBENCH_ROOT names another)")
    raise UserError(f"{root / name / table}: no such file; expected {name}/ with its table of clips below {root}")
