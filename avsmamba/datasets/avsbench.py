"""AVSBench as its authors publish it: what its subsets share, and S4 (single source) and MS3 (multiple sources)."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from avsmamba.choices import SOUNDS
from avsmamba.datasets.files import (
    SPLITS,
    Clip,
    fit_patches,
    read_clips,
    read_frame,
    read_log_mel,
    read_mask,
    read_wav,
)
from avsmamba.datasets.log_mel import SAMPLE_RATE, log_mel_patches, silent_patches
from avsmamba.datasets.replaced_sound import pick_foreign, what_is_known
from avsmamba.registry import DATASETS, TRANSFORMS
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError

NEGATIVES = ("silence", "noise", "swap")
NOISE_RMS = 0.1
NEGATIVE_NOISE_RMS = (0.003, 0.3)  # in training, so that no model learns the one level of the tests by heart
SHUFFLE_SEED = 0


class AVSBench(Dataset, ABC):
    """What S4, MS3 and AVSS share; use `AVSBenchS4`, `AVSBenchMS3` or `AVSBenchAVSS`.

    An item is `{"frames": (T, 3, H, W) uint8, "log_mel": (T, 1, 96, 64) float32, "data_samples": AVSDataSample}`. In
    training masks go through the pipeline with the frames; in testing they keep their own size.

    Args:
        data_root: folder that holds `Single-source/`, `Multi-sources/` and `AVSS/`, or the subset's folder itself.
        split: 'train', 'val' or 'test'.
        pipeline: transforms of `{"frames": Video, "gt_masks": Mask}`, in testing of `{"frames": Video}`.
        audio: 'real', or what replaces the sound: 'silence', 'noise' (white, RMS 0.1, the same each time), 'shuffle'
            (another clip's of this split, by one fixed permutation), 'swap' (another clip's of this split that is
            foreign to the pictures, see `avsmamba.datasets.replaced_sound`, the same each time).
        num_frames: T, frames and seconds of a clip.
        test_mode: whether masks keep their size; by default all splits but 'train'.
        negative_audio_prob: in training, the probability that a clip is given a wrong sound and empty masks. The frames
            that count are those that count with its own sound.
        negative_audio: the wrong sounds, one is drawn each time: 'silence', 'noise' (white, RMS 0.003 to 0.3), 'swap'.

    Raises:
        UserError: if an argument is unknown, the table of clips is faulty, or the split is empty.
    """

    SUBSET: ClassVar[str]
    FOLDER: ClassVar[str]
    TABLE: ClassVar[str]

    def __init__(
        self,
        data_root: str | Path,
        split: str,
        pipeline: Sequence[dict[str, Any]] = (),
        audio: str = "real",
        num_frames: int = 5,
        test_mode: bool | None = None,
        negative_audio_prob: float = 0.0,
        negative_audio: Sequence[str] = ("silence", "swap"),
    ):
        if split not in SPLITS:
            raise UserError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        if audio not in SOUNDS:
            raise UserError(f"audio: expected one of {', '.join(SOUNDS)}, got {audio!r}")
        if num_frames < 1:
            raise UserError(f"num_frames: expected a positive number, got {num_frames}")
        self.split, self.audio, self.num_frames = split, audio, num_frames
        self.test_mode = split != "train" if test_mode is None else test_mode
        self.folder = find_folder(Path(data_root).expanduser(), self.FOLDER, self.TABLE)
        table = self.folder / self.TABLE
        self.clips = [clip for clip in self.read_clips(table) if clip.split == split]
        if not self.clips:
            raise UserError(f"{table}: expected clips of split {split!r}, found none")
        if audio in ("shuffle", "swap") and len(self.clips) == 1:
            raise UserError(f"{table}: audio {audio!r} needs two clips of split {split!r}, found one")
        if audio == "shuffle":
            self.sound_of = derangement(len(self.clips), SHUFFLE_SEED)
        self.negative_audio_prob, self.negative_audio = negative_audio_prob, tuple(negative_audio)
        self._check_negatives(str(table))
        self.pipeline = [TRANSFORMS.build(t) for t in pipeline]
        self.metainfo: dict[str, Any] = {
            "subset": self.SUBSET,
            "split": split,
            "num_frames": num_frames,
            "classes": self.classes(),
        }

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = self.clips[index]
        faults: list[str] = []
        frames, masks = self.read_pictures(clip, faults)
        negative = self._draw_negative()
        log_mel = attempt(faults, self.read_log_mel, index, negative)
        if faults:
            more = f" (and {len(faults) - 1} more faults of this clip)" if len(faults) > 1 else ""
            raise UserError(faults[0] + more)
        item = self.pack(index, frames, masks if negative is None else [np.zeros_like(m) for m in masks], log_mel)
        item["data_samples"].set_metainfo({"audio": negative or self.audio})
        return item

    def faults(self, index: int) -> list[str]:
        """All that is wrong with the files of a clip, one line each."""
        clip = self.clips[index]
        faults: list[str] = []
        self.read_pictures(clip, faults)
        path = self.log_mel_path(clip)
        if path is not None and path.is_file():
            attempt(faults, read_log_mel, path, self.existing_frames(clip))
        attempt(faults, read_wav, self.wav_path(clip))
        return faults

    def pack(self, index: int, frames: Sequence[Any], masks: Sequence[Any], log_mel: Tensor) -> dict[str, Any]:
        """One item from `(h, w, 3)` frames, the `(h, w)` masks of the first frames and the patches.

        What a clip lacks to T frames is filled with zeros after the transforms, which see real frames only.
        """
        clip = self.clips[index]
        video = tv_tensors.Video(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))
        labels = torch.zeros(len(frames), *masks[0].shape, dtype=torch.uint8)
        labels[: len(masks)] = torch.from_numpy(np.stack(masks))
        inputs: dict[str, Any] = {"frames": video}
        if not self.test_mode:
            inputs["gt_masks"] = tv_tensors.Mask(labels)
        for transform in self.pipeline:
            inputs = transform(inputs)
        pictures = padded(inputs["frames"].as_subclass(Tensor), self.num_frames)
        labels = padded(inputs.get("gt_masks", labels).as_subclass(Tensor), self.num_frames)
        place = torch.arange(self.num_frames)
        sample = AVSDataSample(
            metainfo={
                "clip": clip.name,
                "category": clip.category,
                "split": clip.split,
                "subset": self.SUBSET,
                "part": clip.part,
                "frame_names": [path.name for path in self.mask_paths(clip)],
                "ori_shape": tuple(labels.shape[-2:]),
                "img_shape": tuple(pictures.shape[-2:]),
                "clip_index": index,
                "audio": self.audio,
            },
            gt_masks=labels,
            gt_temporal_mask_flag=place < len(masks),
            vid_temporal_mask_flag=place < len(frames),
        )
        return {"frames": pictures, "log_mel": padded(log_mel, self.num_frames), "data_samples": sample}

    def read_pictures(self, clip: Clip, faults: list[str]) -> tuple[list[Any], list[Any]]:
        """Frames `(h, w, 3)` and masks `(h, w)` of a clip, None where one cannot be read; what is wrong is added."""
        frame_paths, mask_paths = self.frame_paths(clip), self.mask_paths(clip)
        labelled = mask_paths[: self.labelled_frames(clip)]
        frames = read_all(frame_paths, read_frame, faults)
        # Masks beyond the labelled ones are left alone: training has no use for them.
        masks = read_all(labelled, self.read_mask, faults, exact=len(labelled) == len(frame_paths))
        first = next((f for f in frames if f is not None), None)
        for path, frame in zip(frame_paths, frames, strict=True):
            if frame is not None and first is not None and frame.shape != first.shape:
                faults.append(f"{path}: expected {_pixels(first)} as the clip's other frames, got {_pixels(frame)}")
        for path, mask, frame in zip(labelled, masks, frames, strict=False):
            if mask is not None and frame is not None and mask.shape != frame.shape[:2]:
                faults.append(f"{path}: expected a mask of its frame's {_pixels(frame)}, got {_pixels(mask)}")
        return frames, masks

    def read_log_mel(self, index: int, negative: str | None = None) -> Tensor:
        """The patches, `(n, 1, 96, 64)` for n frames, of clip `index` from its log-mel file, its wav or neither.

        What `negative` names takes the place of `audio`, and is drawn by torch's generator.
        """
        num_frames = self.existing_frames(self.clips[index])
        sound = negative or self.audio
        if sound == "silence":
            return silent_patches(num_frames)
        seed = index if negative is None else int(torch.randint(2**31, ()))
        if sound == "noise":
            low, high = NEGATIVE_NOISE_RMS
            rms = NOISE_RMS if negative is None else low * (high / low) ** float(torch.rand(()))
            return white_noise(num_frames, rms, seed)
        if sound == "swap":
            index = pick_foreign(self.clips, index, seed)
        elif sound == "shuffle":
            index = self.sound_of[index]
        clip = self.clips[index]
        path = self.log_mel_path(clip)
        if path is not None and path.is_file():
            return read_log_mel(path, num_frames)
        return fit_patches(log_mel_patches(*read_wav(self.wav_path(clip))), num_frames)

    @abstractmethod
    def read_clips(self, table: Path) -> list[Clip]:
        """The clips of all splits."""

    def classes(self) -> tuple[str, ...]:
        """Names of what the values of a mask stand for: one for a binary mask, else one for each index."""
        return ("sounding",)

    def read_mask(self, path: Path) -> np.ndarray:
        """A mask `(h, w)` uint8."""
        return read_mask(path)

    def existing_frames(self, clip: Clip) -> int:
        """How many frames a clip has; what it lacks to T is padding."""
        return self.num_frames

    def _draw_negative(self) -> str | None:
        """A wrong sound with probability `negative_audio_prob`; without one no random number is drawn."""
        if not self.negative_audio_prob or float(torch.rand(())) >= self.negative_audio_prob:
            return None
        return self.negative_audio[int(torch.randint(len(self.negative_audio), ()))]

    def _check_negatives(self, table: str) -> None:
        prob, kinds = self.negative_audio_prob, self.negative_audio
        if not 0 <= prob <= 1:
            raise UserError(f"negative_audio_prob: expected a number from 0 to 1, got {prob}")
        unknown = [kind for kind in kinds if kind not in NEGATIVES]
        if unknown or not kinds:
            raise UserError(f"negative_audio: expected some of {', '.join(NEGATIVES)}, got {list(kinds)}")
        if not prob:
            return
        if self.test_mode:
            raise UserError(f"negative_audio_prob: is of training alone; split {self.split!r} is read for testing here")
        if "swap" in kinds:
            if len(self.clips) == 1:
                raise UserError(f"{table}: negative_audio 'swap' needs two clips of split {self.split!r}, found one")
            known = what_is_known(self.clips)
            if known != "visible":
                less = "what is silent in its pictures" if known == "category" else "any kinds"
                print_log(
                    f"{table} does not say of a clip {less}: a swapped sound may be of something that is seen, while "
                    "the masks say that it is not",
                    "current",
                    logging.WARNING,
                )

    def labelled_frames(self, clip: Clip) -> int:
        """How many of the first frames have masks."""
        return self.existing_frames(clip)

    @abstractmethod
    def frame_paths(self, clip: Clip) -> list[Path]:
        """The pictures of the frames that exist."""

    @abstractmethod
    def mask_paths(self, clip: Clip) -> list[Path]:
        """Their masks, whether they are there or not."""

    @abstractmethod
    def wav_path(self, clip: Clip) -> Path:
        """The sound."""

    def log_mel_path(self, clip: Clip) -> Path | None:
        """The pickled patches, which may be missing; None where the layout has none."""
        return None


class BinarySubset(AVSBench):
    """The layout that S4 and MS3 share; their masks are binary."""

    def read_clips(self, table: Path) -> list[Clip]:
        return read_clips(table)

    @property
    def data(self) -> Path:
        """The folder of the kinds of files."""
        return self.folder / f"{self.SUBSET}_data"

    def inner(self, clip: Clip) -> Path:
        """Where a clip lies in the folders of each kind of file."""
        return Path(clip.split)

    def mask_paths(self, clip: Clip) -> list[Path]:
        folder = self.data / "gt_masks" / self.inner(clip) / clip.name
        return [folder / f"{clip.name}_{t}.png" for t in range(1, self.num_frames + 1)]

    def wav_path(self, clip: Clip) -> Path:
        return self.data / "audio_wav" / self.inner(clip) / f"{clip.name}.wav"

    def log_mel_path(self, clip: Clip) -> Path:
        return self.data / "audio_log_mel" / self.inner(clip) / f"{clip.name}.pkl"


@DATASETS.register_module()
class AVSBenchS4(BinarySubset):
    """S4: one source a clip; training clips have the first frame's mask only. See `AVSBench` for the arguments."""

    SUBSET, FOLDER, TABLE = "s4", "Single-source", "s4_meta_data.csv"

    def read_clips(self, table: Path) -> list[Clip]:
        return read_clips(table, category_column=2)

    def labelled_frames(self, clip: Clip) -> int:
        return 1 if clip.split == "train" else self.num_frames

    def inner(self, clip: Clip) -> Path:
        return Path(clip.split, clip.category)

    def frame_paths(self, clip: Clip) -> list[Path]:
        folder = self.data / "visual_frames" / self.inner(clip) / clip.name
        return [folder / f"{clip.name}_{t}.png" for t in range(1, self.num_frames + 1)]


@DATASETS.register_module()
class AVSBenchMS3(BinarySubset):
    """MS3: several sources a clip, all frames labelled, some masks empty. See `AVSBench` for the arguments."""

    SUBSET, FOLDER, TABLE = "ms3", "Multi-sources", "ms3_meta_data.csv"

    def frame_paths(self, clip: Clip) -> list[Path]:
        folder = self.data / "visual_frames" / clip.name
        return [folder / f"{clip.name}.mp4_{t}.png" for t in range(1, self.num_frames + 1)]


def white_noise(num_frames: int, rms: float, seed: int) -> Tensor:
    """`(T, 1, 96, 64)` patches of white noise of this RMS (full scale is 1), by a generator of this seed."""
    wave = rms * np.random.default_rng(seed).standard_normal(num_frames * SAMPLE_RATE)
    return fit_patches(log_mel_patches(wave, SAMPLE_RATE), num_frames)


def find_folder(root: Path, name: str, table: str) -> Path:
    """`root/name`, or `root` itself where it holds `table`.

    Raises:
        UserError: if neither is there.
    """
    for folder in (root / name, root):
        if (folder / table).is_file():
            return folder
    if not root.is_dir():
        raise UserError(f"data_root: no such folder: {root} (--data-root or AVSBENCH_ROOT names another)")
    raise UserError(f"{root / name / table}: no such file; expected {name}/ with its table of clips below {root}")


def padded(values: Tensor, length: int) -> Tensor:
    """`(n, ...)` with zeros behind up to `(length, ...)`, contiguous."""
    if len(values) == length:
        return values.contiguous()
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


def derangement(size: int, seed: int) -> list[int]:
    """A random permutation in which nothing stays in its place: one cycle through all (Sattolo, 1986)."""
    order = list(range(size))
    rng = np.random.default_rng(seed)
    for i in range(size - 1, 0, -1):
        j = int(rng.integers(i))
        order[i], order[j] = order[j], order[i]
    return order


def attempt(faults: list[str], function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; where it raises a UserError, None, and its message is added to `faults`."""
    try:
        return function(*args)
    except UserError as error:
        faults.append(str(error))
        return None


def read_all(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], faults: list[str], exact: bool = True
) -> list[np.ndarray | None]:
    """The pictures of one folder, None where one cannot be read.

    With `exact` the folder must hold these files of their kind (PNG, JPEG) and no others.
    """
    folder, kind = paths[0].parent, paths[0].suffix
    span = paths[0].name if len(paths) == 1 else f"{len(paths)} pictures {paths[0].name} to {paths[-1].name}"
    try:
        found = {name for name in os.listdir(folder) if name.endswith(kind)}
    except OSError:
        faults.append(f"{folder}: no such folder; expected {span}")
        return [None] * len(paths)
    missing = [path.name for path in paths if path.name not in found]
    other = sorted(found - {path.name for path in paths}) if exact else []
    if missing or other:
        notes = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (other, "unexpected")) if names]
        faults.append(f"{folder}: expected {span}, found {len(found)}: {'; '.join(notes)}")
    return [None if path.name in missing else attempt(faults, read, path) for path in paths]


def _pixels(picture: np.ndarray) -> str:
    return f"{picture.shape[0]} x {picture.shape[1]} pixels"
