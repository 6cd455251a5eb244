"""SoundingShapes, a data set of generated clips in AVSBench's layout: textured shapes move, and some of them sound.

Six kinds of shape, each with a timbre (fundamental, harmonics, envelope) and a range of hues of its own; textures and
shades are drawn at random, and with `colours="any"` the hues too, so that only the outline tells a kind. Every clip
shows two or three shapes of different kinds, one of which at least stays silent throughout. Clips come in pairs with
the same pictures and other sounds: what sounds in one of them is not what sounds in the other, so that sight alone
cannot tell.

`s4`: one shape sounds all the time, and training clips have the first mask only. `ms3`: one or two shapes sound, on
and off from second to second, with seconds in which nothing does.
"""

import csv
import io
import math
import multiprocessing
import pickle
import shutil
import tempfile
import wave
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from avsmamba.datasets.files import SPLITS
from avsmamba.datasets.log_mel import SAMPLE_RATE, log_mel_patches
from avsmamba.datasets.shape_pictures import draw_clip, random_scene
from avsmamba.utils import UserError

NUM_FRAMES = 5  # one a second
SUBSETS = ("s4", "ms3")
COLOURS = ("kind", "any")
FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources"}
SMALLEST, LARGEST = 32, 4096


@dataclass(frozen=True)
class Timbre:
    """How a kind of shape sounds.

    Attributes:
        fundamental: Hz.
        harmonics: amplitude of each multiple of the fundamental, from the first.
        rate: strokes or pulses a second; 0: steady.
        decay: how fast a stroke fades, 1/s; 0: a smooth rise and fall.
        vibrato: (times a second, share of the fundamental).
    """

    fundamental: float
    harmonics: tuple[float, ...]
    rate: float = 0.0
    decay: float = 0.0
    vibrato: tuple[float, float] = (0.0, 0.0)


TIMBRES = {
    "circle": Timbre(440.0, (1.0, 0.1), vibrato=(5.0, 0.015)),
    "square": Timbre(294.0, (1.0, 0.0, 0.6, 0.0, 0.4, 0.0, 0.3)),
    "triangle": Timbre(1175.0, (1.0, 0.0, 0.2), rate=4.0, decay=9.0),
    "star": Timbre(1760.0, (1.0, 0.3), vibrato=(7.0, 0.06)),
    "cross": Timbre(117.0, tuple(0.85**i for i in range(14)), rate=9.0),
    "ring": Timbre(587.0, (0.3, 1.0, 0.2, 0.8, 0.2, 0.5), rate=2.5),
}
KINDS = tuple(TIMBRES)


@dataclass(frozen=True)
class Clip:
    """One clip to be made: the pictures of `pair`, and sound number `variant` of that pair."""

    subset: str
    split: str
    pair: int
    variant: int
    size: int
    seed: int
    colours: str = "kind"

    def rng(self, *more: int) -> np.random.Generator:
        """A generator of its own for the clip's pictures, or with `more` for something else."""
        place = (self.seed, SUBSETS.index(self.subset), SPLITS.index(self.split), self.pair, *more)
        return np.random.default_rng(np.random.SeedSequence(place))


def make_sounding_shapes(
    out: str | Path,
    subset: str,
    splits: Mapping[str, int],
    size: int = 224,
    seed: int = 0,
    colours: str = "kind",
    workers: int = 1,
    progress: bool = False,
) -> Path:
    """Write `out/Single-source` (s4) or `out/Multi-sources` (ms3). The same arguments give the same bytes.

    Args:
        out: folder, as `--data-root` of the other tools takes it.
        subset: 's4' or 'ms3'.
        splits: number of clips of 'train', 'val' and 'test'.
        size: height and width of the frames, pixels.
        seed: of everything that is drawn.
        colours: 'kind' (each kind of shape has its range of hues) or 'any' (only the outline tells a kind).
        workers: processes.
        progress: show a progress bar.

    Returns:
        The folder that was written; it appears when it is complete.

    Raises:
        UserError: if an argument is out of range or the folder exists already.
    """
    if subset not in SUBSETS:
        raise UserError(f"subset: expected one of {', '.join(SUBSETS)}, got {subset!r}")
    if colours not in COLOURS:
        raise UserError(f"colours: expected one of {', '.join(COLOURS)}, got {colours!r}")
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"size: expected {SMALLEST} to {LARGEST} pixels, got {size}")
    if seed < 0:
        raise UserError(f"seed: expected a number that is not negative, got {seed}")
    unknown = [s for s in splits if s not in SPLITS]
    if unknown or any(n < 0 for n in splits.values()) or not any(splits.values()):
        raise UserError(f"splits: expected numbers of clips of {', '.join(SPLITS)}, got {dict(splits)}")
    target = Path(out) / FOLDERS[subset]
    if target.exists():
        raise UserError(f"{target}: exists already; remove it first, or choose another folder")
    clips = [
        Clip(subset, split, i // 2, i % 2, size, seed, colours) for split in SPLITS for i in range(splits.get(split, 0))
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        rows = list(tqdm(_written(clips, folder, workers), total=len(clips), disable=not progress, unit="clip"))
        with open(folder / f"{subset}_meta_data.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            start = ["start"] if subset == "s4" else []
            writer.writerow(["name", *start, "category", "split", "visible"])
            writer.writerows(rows)
        folder.chmod(0o755)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def divide(clips: int) -> dict[str, int]:
    """70 % training, 10 % validation, 20 % test, at least one clip each.

    Raises:
        UserError: for fewer than three clips.
    """
    if clips < len(SPLITS):
        raise UserError(f"clips: expected at least {len(SPLITS)}, one for each split, got {clips}")
    val, test = max(1, round(0.1 * clips)), max(1, round(0.2 * clips))
    return {"train": clips - val - test, "val": val, "test": test}


def parse_splits(text: str) -> dict[str, int]:
    """`train=100,val=10,test=20` as numbers.

    Raises:
        UserError: if it is not of that form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        splits = {name.strip(): int(number) for name, number in pairs}
    except ValueError:
        raise UserError(f"splits: expected train=N,val=N,test=N, got {text!r}") from None
    if len(splits) != len(pairs):
        raise UserError(f"splits: a split is given twice: {text!r}")
    return splits


def _written(clips: Sequence[Clip], folder: Path, workers: int) -> Iterator[list[Any]]:
    if workers <= 1:
        yield from (write_clip(clip, folder) for clip in clips)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(write_clip, clips, [folder] * len(clips), chunksize=8)


def write_clip(clip: Clip, folder: Path) -> list[Any]:
    """Write one clip's files below `folder`; return its row of the csv."""
    scene = random_scene(clip.rng(), KINDS, NUM_FRAMES, clip.colours)
    frames, visible = draw_clip(scene, clip.size)
    activity = plan_sounds(clip, len(scene.shapes))
    masks = (visible & activity[:, :, None, None]).any(axis=0)
    waveform = mix_sounds(clip, [s.kind for s in scene.shapes], activity)
    heard = [s.kind for s, on in zip(scene.shapes, activity, strict=True) if on.any()]
    data = folder / f"{clip.subset}_data"
    number = 2 * clip.pair + clip.variant
    name = f"{'-'.join(heard)}_{clip.split}{number:05d}"
    if clip.subset == "s4":
        inner, stem = Path(clip.split, heard[0]), f"{name}_"
        frame_folder, row = data / "visual_frames" / inner / name, [name, 0, heard[0], clip.split]
    else:
        inner, stem = Path(clip.split), f"{name}.mp4_"
        frame_folder, row = data / "visual_frames" / name, [name, "+".join(heard), clip.split]
    labelled = 1 if (clip.subset, clip.split) == ("s4", "train") else NUM_FRAMES
    for t in range(NUM_FRAMES):
        _write_png(frame_folder / f"{stem}{t + 1}.png", frames[t, :, :, ::-1])
        if t < labelled:
            _write_png(data / "gt_masks" / inner / name / f"{name}_{t + 1}.png", masks[t].astype(np.uint8) * 255)
    _write_wav(_made(data / "audio_wav" / inner / f"{name}.wav"), waveform)
    patches = log_mel_patches(waveform / 32768.0, SAMPLE_RATE)
    _made(data / "audio_log_mel" / inner / f"{name}.pkl").write_bytes(pickled_tensor(patches))
    return [*row, "+".join(s.kind for s in scene.shapes)]


def plan_sounds(clip: Clip, count: int) -> np.ndarray:
    """Which shapes sound when: `(count, T)` bool. The two variants of a pair share no plan.

    Shapes are in random order already; the first variant's sources stand at the front of the list, the second's at
    the back, and at least one shape is no source.
    """
    pictures = clip.rng(1)
    sources = [1, 1] if clip.subset == "s4" or count < 3 else [int(n) for n in pictures.integers(1, 3, size=2)]
    chosen = range(sources[0]) if clip.variant == 0 else range(count - sources[1], count)
    activity = np.zeros((count, NUM_FRAMES), dtype=bool)
    if clip.subset == "s4":
        activity[list(chosen)] = True
        return activity
    rng = clip.rng(2, clip.variant)
    for i in chosen:
        on = rng.random() < 0.75
        for t in range(NUM_FRAMES):
            activity[i, t] = on
            on = rng.random() < (0.75 if on else 0.6)
    if activity.any(axis=0).all() and rng.random() < 0.25:
        activity[:, rng.integers(NUM_FRAMES)] = False
    for i in chosen:  # every source is heard at least once
        if not activity[i].any():
            activity[i, rng.integers(NUM_FRAMES)] = True
    return activity


def mix_sounds(clip: Clip, kinds: Sequence[str], activity: np.ndarray) -> np.ndarray:
    """The clip's waveform: `(5 * 16000,)` int16 at 16 kHz. Half of the clips have a faint hiss beneath."""
    rng = clip.rng(3, clip.variant)
    mixed = np.zeros(NUM_FRAMES * SAMPLE_RATE)
    for kind, on in zip(kinds, activity, strict=True):
        if on.any():
            mixed += synthesize(TIMBRES[kind], rng) * rng.uniform(0.5, 1.0) * _gate(on)
    hiss = rng.normal(size=len(mixed)) * 10 ** rng.uniform(-4.5, -2.5)
    mixed += hiss * (rng.random() < 0.5)
    return np.round(np.clip(0.25 * mixed, -1.0, 1.0) * 32767).astype(np.int16)


def synthesize(timbre: Timbre, rng: np.random.Generator) -> np.ndarray:
    """Five seconds of a timbre at RMS 0.5 while it sounds, its pitch and phases varied a little."""
    time = np.arange(NUM_FRAMES * SAMPLE_RATE) / SAMPLE_RATE
    times, share = timbre.vibrato
    pitch = timbre.fundamental * rng.uniform(0.97, 1.03) * (1 + share * np.sin(2 * np.pi * times * time + rng.random()))
    # Multiples of the phase as powers of one complex wave: a product costs a tenth of a sine.
    first = np.exp(2j * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
    power, wave_ = np.ones_like(first), np.zeros(len(first))
    for amplitude, start in zip(timbre.harmonics, rng.random(len(timbre.harmonics)), strict=True):
        power = power * first
        if amplitude:
            wave_ += (amplitude * np.exp(2j * np.pi * start) * power).imag
    wave_ /= math.sqrt(2 * sum(a * a for a in timbre.harmonics))
    if timbre.rate:
        beat = timbre.rate * rng.uniform(0.95, 1.05) * time + rng.random()
        if timbre.decay:
            wave_ = wave_ * 2 * np.exp(-timbre.decay * (beat % 1) / timbre.rate)
        else:
            wave_ = wave_ * 2 * np.sin(np.pi * beat) ** 2
    return wave_


def _gate(on: np.ndarray) -> np.ndarray:
    """One number a sample: 1 in the seconds that sound, with 20 ms ramps where it starts and stops."""
    ramp = SAMPLE_RATE // 50
    steps = np.repeat(on.astype(np.float64), SAMPLE_RATE)
    padded = np.pad(steps, (ramp // 2, ramp - ramp // 2 - 1), mode="edge")
    total = np.cumsum(np.concatenate([[0.0], padded]))
    return (total[ramp:] - total[:-ramp]) / ramp


class _Storage:
    def __init__(self, tensor: Tensor):
        file = io.BytesIO()
        torch.save(tensor._typed_storage(), file)
        self.content = file.getvalue()

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.content,)


class _PlainTensor:
    def __init__(self, tensor: Tensor):
        self.tensor = tensor.contiguous()

    def __reduce__(self) -> tuple[Any, ...]:
        t = self.tensor
        return torch._utils._rebuild_tensor_v2, (_Storage(t), 0, tuple(t.shape), t.stride(), False, OrderedDict())


def pickled_tensor(tensor: Tensor) -> bytes:
    """What `pickle.dumps(tensor)` gives, but for the address in memory that torch writes into it."""
    return pickle.dumps(_PlainTensor(tensor), protocol=4)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_png(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(_made(path)), picture):
        raise UserError(f"{path}: cannot be written")


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
