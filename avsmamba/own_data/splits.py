"""Divide videos into train, val and test: by ratios and a seed, or by a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avsmamba.datasets.clip_table import SPLITS, read_table
from avsmamba.utils import UserError


class Place(NamedTuple):
    """Split of a video, and its category if the table has that column."""

    split: str
    category: str = ""


def split_by_ratio(names: Sequence[str], ratio: Sequence[float], seed: int) -> dict[str, Place]:
    """Draw the split of each video, so that the pieces of one are never in two splits.

    A split with a ratio above 0 gets at least one video.

    Args:
        names: of the videos.
        ratio: shares of train, val and test, of any sum.
        seed: of the order.

    Raises:
        UserError: if a share is negative, all are 0, or there are fewer videos than splits.
    """
    if len(ratio) != len(SPLITS) or min(ratio) < 0 or not sum(ratio) > 0 or not np.isfinite(ratio).all():
        raise UserError(f"--ratio: expected shares of {', '.join(SPLITS)}, none below 0, got {list(ratio)}")
    used = [i for i, share in enumerate(ratio) if share > 0]
    if len(names) < len(used):
        raise UserError(
            f"--ratio: {len(names)} video{'s' if len(names) > 1 else ''} cannot fill {len(used)} splits; "
            "--ratio 1 0 0 puts all into train"
        )
    counts = np.zeros(len(SPLITS), int)
    counts[used] = 1
    share = np.array(ratio) / sum(ratio)
    for _ in range(len(names) - len(used)):  # the split that is furthest below its share gets the next video
        counts[np.argmax(np.where(share > 0, share * len(names) - counts, -np.inf))] += 1
    order = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return {name: Place(split) for name, split in zip(order, splits, strict=True)}


def split_by_table(names: Sequence[str], path: Path, faults: list[str]) -> dict[str, Place]:
    """Read the split of each video from a table with the columns `video` and `split`, and perhaps `category`.

    Args:
        names: of the videos.
        path: comma-separated table; a video is named with or without its suffix.
        faults: gets a line for each faulty row, and for each video without one.

    Raises:
        UserError: if the table is missing or lacks a column.
    """
    header, rows = read_table(path)
    for column in ("video", "split"):
        if column not in header:
            raise UserError(f"{path}: expected the columns video and split, got {', '.join(header) or 'an empty file'}")
    found: dict[str, Place] = {}
    for number, row in rows.items():
        cells = dict(zip(header, row, strict=False))
        name, split = cells.get("video", ""), cells.get("split", "")
        name = name if name in names else Path(name).stem
        if split not in SPLITS:
            faults.append(f"{path}: row {number}: split: expected one of {', '.join(SPLITS)}, got {split!r}")
        elif name not in names:
            faults.append(f"{path}: row {number}: video: there are no labels of {cells.get('video', '')!r}")
        elif name in found:
            faults.append(f"{path}: row {number}: video: {name} is listed twice")
        else:
            found[name] = Place(split, cells.get("category", ""))
    faults += [f"{path}: has no row for the video {name}" for name in names if name not in found]
    return found
