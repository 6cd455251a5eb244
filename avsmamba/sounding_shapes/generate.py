"""SoundingShapes: a generated data set of moving, sounding shapes in AVSBench's layout.

Each of six kinds of shape has a timbre (fundamental, harmonics, envelope) and a range of hues; textures are random, and
with `colours="any"` hues too, so that only the outline identifies a kind. Every clip shows two or three shapes of
different kinds, at least one of which is silent. Clips come in pairs with the same pictures and different sources, so
that the source cannot be inferred from the pictures.

`s4`: one shape sounds all the time, and training clips have only the first mask. `ms3`: one or two shapes sound, on and
off, with silent seconds. `avss`: a class is a kind with one of its two timbres (`avsmamba.sounding_shapes.sounds`); a
third of the pairs each are like s4 (v1s), like ms3 (v1m), and like ms3 of ten seconds (v2).
"""

import csv
import io
import json
import multiprocessing
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
import torch
from tqdm import tqdm

from avsmamba.choices import COLOURS, DIFFICULTIES, SUBSETS
from avsmamba.datasets.clip_table import SPLITS
from avsmamba.datasets.log_mel import SAMPLE_RATE, log_mel_patches
from avsmamba.datasets.palette import to_colours
from avsmamba.sounding_shapes.hard import hard_mix, hard_scene
from avsmamba.sounding_shapes.pictures import draw_clip, random_scene
from avsmamba.sounding_shapes.sounds import (
    CLASSES,
    KINDS,
    ClipSpec,
    class_name,
    mix_sounds,
    plan_sounds,
    plan_voices,
)
from avsmamba.utils import UserError

FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "AVSS"}
TABLES = {
    "s4": ("s4_meta_data.csv", ["name", "start", "category", "split", "visible"]),
    "ms3": ("ms3_meta_data.csv", ["name", "category", "split", "visible"]),
    "avss": ("metadata.csv", ["vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"]),
}
SMALLEST, LARGEST = 32, 4096


def make_sounding_shapes(
    out: str | Path,
    subset: str,
    splits: Mapping[str, int],
    size: int = 224,
    seed: int = 0,
    colours: str = "kind",
    workers: int = 1,
    progress: bool = False,
    difficulty: str = "plain",
) -> Path:
    """Write `out/Single-source` (s4), `out/Multi-sources` (ms3) or `out/AVSS`; equal arguments write equal bytes.

    Args:
        out: folder, `--data-root` of the other commands.
        subset: 's4', 'ms3' or 'avss'.
        splits: number of clips of 'train', 'val' and 'test'.
        size: height and width of the frames, pixels.
        seed: of all random numbers.
        colours: 'kind' (each kind of shape has its range of hues) or 'any' (only the outline identifies a kind).
        workers: processes.
        progress: show a progress bar.
        difficulty: 'plain' or 'hard' (see `avsmamba.sounding_shapes.hard`).

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        UserError: if an argument is out of range or the folder exists already.
    """
    choices = (("subset", subset, SUBSETS), ("colours", colours, COLOURS), ("difficulty", difficulty, DIFFICULTIES))
    for argument, value, known in choices:
        if value not in known:
            raise UserError(f"{argument}: expected one of {', '.join(known)}, got {value!r}")
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"size: expected {SMALLEST} to {LARGEST} pixels, got {size}")
    if seed < 0:
        raise UserError(f"seed: expected a non-negative number, got {seed}")
    unknown = [s for s in splits if s not in SPLITS]
    if unknown or any(n < 0 for n in splits.values()) or not any(splits.values()):
        raise UserError(f"splits: expected numbers of clips of {', '.join(SPLITS)}, got {dict(splits)}")
    target = Path(out) / FOLDERS[subset]
    if target.exists():
        raise UserError(f"{target}: exists already; remove it first, or choose another folder")
    clips = [
        ClipSpec(subset, split, i // 2, i % 2, size, seed, colours, difficulty)
        for split in SPLITS
        for i in range(splits.get(split, 0))
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        rows = list(tqdm(_write_clips(clips, folder, workers), total=len(clips), disable=not progress, unit="clip"))
        table, heads = TABLES[subset]
        with open(folder / table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(heads)
            writer.writerows(rows)
        if subset == "avss":
            indices = {name: index for index, name in enumerate(CLASSES)}
            (folder / "label2idx.json").write_text(json.dumps(indices, indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def divide(clips: int) -> dict[str, int]:
    """Split a number of clips: 70 % training, 10 % validation, 20 % test, at least one each.

    Raises:
        UserError: for fewer than three clips.
    """
    if clips < len(SPLITS):
        raise UserError(f"clips: expected at least {len(SPLITS)}, one for each split, got {clips}")
    val, test = max(1, round(0.1 * clips)), max(1, round(0.2 * clips))
    return {"train": clips - val - test, "val": val, "test": test}


def parse_splits(text: str) -> dict[str, int]:
    """Parse `train=100,val=10,test=20`.

    Raises:
        UserError: if the text is not of that form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        splits = {name.strip(): int(number) for name, number in pairs}
    except ValueError:
        raise UserError(f"splits: expected train=N,val=N,test=N, got {text!r}") from None
    if len(splits) != len(pairs):
        raise UserError(f"splits: a split is named twice: {text!r}")
    return splits


def _write_clips(clips: Sequence[ClipSpec], folder: Path, workers: int) -> Iterator[list[Any]]:
    if workers <= 1:
        yield from (write_clip(clip, folder) for clip in clips)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(write_clip, clips, [folder] * len(clips), chunksize=8)


def write_clip(clip: ClipSpec, folder: Path) -> list[Any]:
    """Write one clip's files below `folder` and return its row of the table."""
    make_scene = hard_scene if clip.difficulty == "hard" else random_scene
    scene = make_scene(clip.rng(), KINDS, clip.num_frames, clip.colours, apart=clip.subset == "avss")
    frames, visible = draw_clip(scene, clip.size)
    activity = plan_sounds(clip, len(scene.shapes))
    kinds = [shape.kind for shape in scene.shapes]
    voices = plan_voices(clip, kinds)
    off_screen: list[str] = []
    if clip.difficulty == "hard":
        waveform, off_screen = hard_mix(clip, kinds, voices, activity)
    else:
        waveform = mix_sounds(clip.rng(3, clip.variant), voices, activity)
    seen = visible & activity[:, :, None, None]
    heard = [i for i, on in enumerate(activity) if on.any()]
    names = [kinds[i] for i in heard] + off_screen
    name = f"{'-'.join(names)}_{clip.split}{2 * clip.pair + clip.variant:05d}"
    if clip.subset == "avss":
        classes = [class_name(kind, voice) for kind, voice in zip(kinds, voices, strict=True)]
        labels = sum(mask * np.uint8(CLASSES.index(c)) for mask, c in zip(seen, classes, strict=True))
        _write_semantic(clip, folder / clip.part / name, frames, labels, waveform)
        return [name, name, 0, 0, "+".join(classes[i] for i in heard), clip.split, clip.part]
    return _write_binary(clip, folder / f"{clip.subset}_data", name, frames, seen.any(axis=0), waveform, kinds, names)


def _write_semantic(clip: ClipSpec, folder: Path, frames: np.ndarray, labels: np.ndarray, waveform: np.ndarray) -> None:
    for t, frame in enumerate(frames):
        _write_picture(folder / "frames" / f"{t}.jpg", frame[:, :, ::-1])
        if t == 0 or (clip.part, clip.split) != ("v1s", "train"):
            _write_picture(folder / "labels_semantic" / f"{t}.png", labels[t])
            _write_picture(folder / "labels_rgb" / f"{t}.png", to_colours(labels[t])[:, :, ::-1])
    soundfile.write(folder / "audio.wav", waveform, SAMPLE_RATE)


def _write_binary(
    clip: ClipSpec,
    data: Path,
    name: str,
    frames: np.ndarray,
    masks: np.ndarray,
    waveform: np.ndarray,
    kinds: Sequence[str],
    names: Sequence[str],
) -> list[Any]:
    if clip.subset == "s4":
        inner, stem = Path(clip.split, names[0]), f"{name}_"
        frame_folder, row = data / "visual_frames" / inner / name, [name, 0, names[0], clip.split]
    else:
        inner, stem = Path(clip.split), f"{name}.mp4_"
        frame_folder, row = data / "visual_frames" / name, [name, "+".join(names), clip.split]
    labelled = 1 if (clip.subset, clip.split) == ("s4", "train") else clip.num_frames
    for t in range(clip.num_frames):
        _write_picture(frame_folder / f"{stem}{t + 1}.png", frames[t, :, :, ::-1])
        if t < labelled:
            _write_picture(data / "gt_masks" / inner / name / f"{name}_{t + 1}.png", masks[t].astype(np.uint8) * 255)
    soundfile.write(_with_parent(data / "audio_wav" / inner / f"{name}.wav"), waveform, SAMPLE_RATE)
    patches = log_mel_patches(waveform / 32768.0, SAMPLE_RATE)
    with open(_with_parent(data / "audio_log_mel" / inner / f"{name}.pkl"), "wb") as file:
        _TensorPickler(file, protocol=4).dump(patches)
    return [*row, "+".join(kinds)]


class _TensorPickler(pickle.Pickler):
    """Pickler of tensors without the memory addresses that torch writes by default."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.storage.TypedStorage):
            return NotImplemented
        content = io.BytesIO()
        torch.save(value, content)
        return torch.storage._load_from_bytes, (content.getvalue(),)


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_picture(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(_with_parent(path)), picture):  # PNG, or JPEG at OpenCV's default quality 95
        raise UserError(f"{path}: cannot be written")
