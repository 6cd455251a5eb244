"""Write shards: tars of clips in WebDataset's format, then their tables and the index.

A run that was interrupted goes on with the first shard that is not complete; one with other options is refused.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from avsmamba.datasets.clip_table import Clip
from avsmamba.datasets.shards.index import COLUMNS, FORMAT, INDEX, VERSION
from avsmamba.utils import UserError, atomic_write, read_json

PARTS = ".parts"  # folder of the tables of complete shards, until the index is written

# What a writer returns of a clip: the clip, its sound's files and its pictures' files, by name.
Files = tuple[Clip, dict[str, bytes], dict[str, bytes]]


class Job(NamedTuple):
    """The clips of one shard.

    Attributes:
        name: of the tar.
        split: of the clips.
        clips: numbers of the clips in their data set.
        first: number of the first clip in the split, for the names in the tar.
    """

    name: str
    split: str
    clips: list[int]
    first: int


def jobs_of(counts: dict[str, int], per_shard: int) -> list[Job]:
    """Divide the clips of each split into shards of `per_shard`; the last one may hold fewer.

    Raises:
        UserError: if `per_shard` is below 1.
    """
    if per_shard < 1:
        raise UserError(f"--per-shard: expected at least 1, got {per_shard}")
    return [
        Job(f"{split}-{start // per_shard:06d}.tar", split, list(range(start, min(start + per_shard, count))), start)
        for split, count in counts.items()
        for start in range(0, count, per_shard)
    ]


def write_shards(
    out: str | Path,
    jobs: Sequence[Job],
    about: dict[str, Any],
    make: Callable[[str, int], Files],
    workers: int = 0,
    progress: bool = False,
) -> Path:
    """Write all shards, their tables of clips and the index.

    Args:
        out: folder; new, empty, or of an interrupted run with the same `about` and jobs.
        jobs: of all splits.
        about: `subset`, `kind`, `classes` and `settings` of the index.
        make: returns the files of a clip of a split; with workers it is called in other processes.
        workers: processes; 0 or 1: this one.
        progress: show a bar on stderr.

    Returns:
        The path of the index.

    Raises:
        UserError: if the folder holds another data set or other files, or a clip cannot be read.
    """
    out = Path(out)
    plan = {**about, "shards": [[j.name, len(j.clips)] for j in jobs]}
    _prepare(out, plan)
    left = [job for job in jobs if not (out / PARTS / f"{job.name}.json").is_file()]
    with tqdm(total=len(jobs), initial=len(jobs) - len(left), unit="shard", disable=not progress) as bar:
        if workers <= 1:
            for job in left:
                _write_shard(out, job, make)
                bar.update()
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                futures: list[Future[None]] = [pool.submit(_write_shard, out, job, make) for job in left]
                try:
                    for future in futures:
                        future.result()
                        bar.update()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
    return _write_index(out, jobs, about)


def add_clip(tar: tarfile.TarFile, key: str, clip: Clip, sound: dict[str, bytes], pictures: dict[str, bytes]) -> Any:
    """Add a clip to a tar; return its first byte, the bytes of its row and sound, and all its bytes."""
    row = {
        "name": clip.name,
        "split": clip.split,
        "category": clip.category,
        "part": clip.part,
        "sounding": sorted(clip.sounding),
        "visible": sorted(clip.visible),
    }
    start = tar.offset
    _add(tar, {f"{key}.json": json.dumps(row).encode()} | {f"{key}.{n}": c for n, c in sound.items()})
    head = tar.offset - start
    _add(tar, {f"{key}.{n}": c for n, c in pictures.items()})
    return start, head, tar.offset - start


def array_bytes(array: np.ndarray) -> bytes:
    """Return an array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _prepare(out: Path, plan: dict[str, Any]) -> None:
    """Raise a UserError unless the folder is new or of an interrupted run of the same plan; write the plan."""
    if (out / INDEX).exists():
        raise UserError(f"--out: {out / INDEX} exists: a complete data set in shards; choose another folder")
    file = out / PARTS / "plan.json"
    plan = json.loads(json.dumps(plan))
    if file.is_file():
        found = read_json(file)
        if found != plan:
            settings, before = plan["settings"], found.get("settings", {})
            other = [f"{k} {before.get(k)!r}" for k in settings if before.get(k) != settings[k]] or ["other clips"]
            raise UserError(f"--out: {out}: holds an interrupted run with {', '.join(other)}; choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"--out: {out}: expected an empty folder, or one of an interrupted run")
    else:
        with atomic_write(file) as path:
            path.write_text(json.dumps(plan), encoding="utf-8")


def _write_shard(out: Path, job: Job, make: Callable[[str, int], Files]) -> None:
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    with atomic_write(out / job.name) as path:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, index in enumerate(job.clips, job.first):
                clip, sound, pictures = make(job.split, index)
                start, head, size = add_clip(tar, f"{number:08d}", clip, sound, pictures)
                kinds = ("+".join(sorted(k)) for k in (clip.sounding, clip.visible))
                row = (
                    clip.name,
                    clip.category,
                    clip.part,
                    *kinds,
                    clip.lists_visible,
                    "wav" in sound,
                    start,
                    head,
                    size,
                )
                for name, value in zip(COLUMNS, row, strict=True):
                    columns[name].append(value)
        entry = {"name": job.name, "clips": len(job.clips), "bytes": path.stat().st_size, "sha256": _sha256(path)}
    # Written last: a shard whose table exists is complete.
    with atomic_write(out / PARTS / f"{job.name}.json") as path:
        path.write_text(json.dumps({"shard": entry, "columns": columns}), encoding="utf-8")


def _write_index(out: Path, jobs: Sequence[Job], about: dict[str, Any]) -> Path:
    splits: dict[str, Any] = {}
    for split in dict.fromkeys(job.split for job in jobs):
        parts = [read_json(out / PARTS / f"{job.name}.json") for job in jobs if job.split == split]
        table = {name: [v for part in parts for v in part["columns"][name]] for name in COLUMNS}
        content = json.dumps(table, separators=(",", ":")).encode()
        with atomic_write(out / f"{split}.json") as path:
            path.write_bytes(content)
        splits[split] = {
            "clips": len(table["name"]),
            "table": {"name": f"{split}.json", "sha256": hashlib.sha256(content).hexdigest()},
            "shards": [part["shard"] for part in parts],
        }
    with atomic_write(out / INDEX) as path:
        path.write_text(json.dumps({"format": FORMAT, "version": VERSION, **about, "splits": splits}, indent=1) + "\n")
    shutil.rmtree(out / PARTS)
    return out / INDEX


def _add(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        chunks: Iterable[bytes] = iter(lambda: file.read(1 << 20), b"")
        for chunk in chunks:
            digest.update(chunk)
    return digest.hexdigest()
