"""The index of a data set in shards: `index.json`, and one table of clips for each split."""

import hashlib
import io
import json
import tarfile
from typing import Any, NamedTuple

import numpy as np

from avsmamba.datasets.clip_table import Clip
from avsmamba.datasets.shards.store import Store
from avsmamba.utils import UserError

FORMAT, VERSION, INDEX = "avsmamba shards", 1, "index.json"
KINDS = ("frames", "features")
COLUMNS = ("name", "category", "part", "sounding", "visible", "lists_visible", "wav", "offset", "head", "size")


class Shards(NamedTuple):
    """Content of `index.json`.

    Attributes:
        subset: 's4', 'ms3' or 'avss'.
        kind: 'frames', or 'features' of a frozen backbone.
        classes: names, of binary masks one.
        splits: for each split its `shards` (`name`, `clips`, `bytes`, `sha256`) and its `table` (`name`, `sha256`).
        settings: options of the command that wrote the shards.
    """

    subset: str
    kind: str
    classes: tuple[str, ...]
    splits: dict[str, Any]
    settings: dict[str, Any]


class Rows(NamedTuple):
    """The clips of one split, in the order of the shards.

    Attributes:
        clips: with their number in `place`.
        shards: as in `Shards.splits`.
        wav: whether each clip has its waveform.
        shard: number of each clip's shard.
        offset: first byte of each clip in its shard.
        head: bytes of its row and sound, with which it begins.
        size: all its bytes.
    """

    clips: list[Clip]
    shards: list[dict[str, Any]]
    wav: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    head: np.ndarray
    size: np.ndarray


def read_index(store: Store) -> Shards:
    """Read `index.json`.

    Raises:
        UserError: if it is missing, or not of this format and version.
    """
    place = store.place(INDEX)
    values = _json(store.read(INDEX), place)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{place}: expected an index that `avsmamba shards` wrote")
    if values.get("version") != VERSION or values.get("kind") not in KINDS:
        found = f"{values.get('version')!r}, {values.get('kind')!r}"
        raise UserError(f"{place}: expected version {VERSION} of {' or '.join(KINDS)}, got {found}")
    try:
        classes = tuple(values["classes"])
        return Shards(values["subset"], values["kind"], classes, values["splits"], values["settings"])
    except KeyError as error:
        raise UserError(f"{place}: lacks the key {error}") from None


def read_rows(store: Store, shards: Shards, split: str) -> Rows:
    """Read the table of clips of a split.

    Raises:
        UserError: if there is none, its SHA-256 is another one, or it does not fit to the shards.
    """
    if split not in shards.splits:
        raise UserError(f"{store.place(INDEX)}: has no split {split!r}, only {', '.join(shards.splits)}")
    entry = shards.splits[split]
    name = entry["table"]["name"]
    content = store.read(name)
    if hashlib.sha256(content).hexdigest() != entry["table"]["sha256"]:
        raise UserError(f"{store.place(name)}: has another SHA-256 than in {INDEX}: it is damaged or of another run")
    table = _json(content, store.place(name))
    counts = [shard["clips"] for shard in entry["shards"]]
    if set(table) != set(COLUMNS) or {len(v) for v in table.values()} != {sum(counts)}:
        raise UserError(f"{store.place(name)}: expected the columns {', '.join(COLUMNS)} of {sum(counts)} clips each")
    kinds: dict[str, frozenset[str]] = {}
    for text in {*table["sounding"], *table["visible"]}:
        kinds[text] = frozenset(text.split("+")) if text else frozenset()
    rows = zip(*(table[c] for c in COLUMNS[:6]), strict=True)
    clips = [
        Clip(name, split, category, part, kinds[sounding], kinds[visible], listed, place)
        for place, (name, category, part, sounding, visible, listed) in enumerate(rows)
    ]
    places = (np.array(table[c], dtype=np.int64) for c in COLUMNS[7:])
    wav = np.array(table["wav"], dtype=bool)
    return Rows(clips, entry["shards"], wav, np.repeat(np.arange(len(counts)), counts), *places)


def read_members(store: Store, rows: Rows, place: int, head_only: bool = False) -> dict[str, bytes]:
    """Read the files of a clip, by their names without the clip's key.

    Raises:
        UserError: if the bytes cannot be read or are no tar.
    """
    shard = rows.shards[rows.shard[place]]
    start = int(rows.offset[place])
    stop = start + int((rows.head if head_only else rows.size)[place])
    content = store.read(shard["name"], start, stop, shard["sha256"])
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            return {m.name.partition(".")[2]: content[m.offset_data : m.offset_data + m.size] for m in tar}
    except tarfile.TarError as error:
        raise UserError(f"{store.place(shard['name'])}: no tar at byte {start}: {error}") from None


def _json(content: bytes, place: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{place}: cannot be read as JSON: {error}") from None
