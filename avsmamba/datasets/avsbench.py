"""AVSBench data sets: the base class, S4 (single source) and MS3 (multiple sources)."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import tv_tensors

from avsmamba.choices import SOUNDS
from avsmamba.datasets.broken import broken_clips
from avsmamba.datasets.clip_table import SPLITS, Clip, find_folder, read_clips
from avsmamba.datasets.log_mel import log_mel_patches, silent_patches
from avsmamba.datasets.readers import (
    attempt,
    fit_patches,
    pixels,
    read_all,
    read_frame,
    read_log_mel,
    read_mask,
    read_wav,
)
from avsmamba.datasets.released_negatives import NOISE_RATE, librosa_patches, released_noise
from avsmamba.datasets.replaced_sound import derangement, known_kinds, pick_mismatched, white_noise
from avsmamba.registry import DATASETS, TRANSFORMS
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError

NEGATIVES = ("silence", "noise", "swap")
LOG_MEL_SOURCES = ("file", "wav")
NEGATIVE_FEATURES = ("vggish", "librosa")
NOISE_RMS = 0.1
NEGATIVE_NOISE_RMS = (0.003, 0.3)  # in training, so that no model learns the single level of the tests
SHUFFLE_SEED = 0


class AVSBench(Dataset, ABC):
    """Base class of `AVSBenchS4`, `AVSBenchMS3` and `AVSBenchAVSS`.

    An item is `{"frames": (T, 3, H, W) uint8, "log_mel": (T, 1, 96, 64) float32, "data_samples": AVSDataSample}`. In
    training masks pass through the pipeline with the frames; in testing they keep their own size.

    Args:
        data_root: folder with `Single-source/`, `Multi-sources/` and `AVSS/`, or the subset's folder itself.
        split: 'train', 'val' or 'test'.
        pipeline: transforms of `{"frames": Video, "gt_masks": Mask}`, in testing of `{"frames": Video}`.
        audio: 'real', or a replacement, the same in every epoch: 'silence', 'noise' (white, RMS 0.1), 'shuffle'
            (another clip of this split, by one fixed permutation), 'swap' (another clip of this split whose sound is
            of nothing visible, see `avsmamba.datasets.replaced_sound`).
        num_frames: T, frames and seconds of a clip.
        test_mode: whether masks keep their size; by default true for all splits but 'train'.
        negative_audio_prob: in training, the probability that a clip gets a wrong sound and empty masks. The scored
            frames are the same as with its own sound.
        negative_audio: the wrong sounds, one is drawn each time: 'silence', 'noise' (white, RMS 0.003 to 0.3), 'swap'.
        log_mel_from: 'file' (a clip's log-mel file, or its wav without one) or 'wav' (the wav, or with a warning the
            log-mel file without one).
        negative_features: features of all sounds that are not the clip's own: 'vggish', as the real ones, or 'librosa',
            as AVSBench-Robust's released negatives, see docs/robustness.md.
        on_broken: a clip whose files cannot be read: 'raise' an error, or, in training, 'skip' it: the next clip of the
            table is read instead, and a line of the log names the file.
        max_broken: greatest number of clips that are skipped in one process.

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
        log_mel_from: str = "file",
        negative_features: str = "vggish",
        on_broken: str = "raise",
        max_broken: int = 100,
    ):
        if split not in SPLITS:
            raise UserError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
        if audio not in SOUNDS:
            raise UserError(f"audio: expected one of {', '.join(SOUNDS)}, got {audio!r}")
        if log_mel_from not in LOG_MEL_SOURCES:
            raise UserError(f"log_mel_from: expected one of {', '.join(LOG_MEL_SOURCES)}, got {log_mel_from!r}")
        if negative_features not in NEGATIVE_FEATURES:
            expected = ", ".join(NEGATIVE_FEATURES)
            raise UserError(f"negative_features: expected one of {expected}, got {negative_features!r}")
        if num_frames < 1:
            raise UserError(f"num_frames: expected a positive number, got {num_frames}")
        self.split, self.audio, self.num_frames = split, audio, num_frames
        self.test_mode = split != "train" if test_mode is None else test_mode
        self.pipeline = [TRANSFORMS.build(t) for t in pipeline]
        self.folder, table = self.locate(str(data_root))
        self.clips = [clip for clip in self.read_clips(table) if clip.split == split]
        if not self.clips:
            raise UserError(f"{table}: expected clips of split {split!r}, found none")
        if audio in ("shuffle", "swap") and len(self.clips) == 1:
            raise UserError(f"{table}: audio {audio!r} needs two clips of split {split!r}, found one")
        if audio == "shuffle":
            self.sound_of = derangement(len(self.clips), SHUFFLE_SEED)
        self.negative_audio_prob, self.negative_audio = negative_audio_prob, tuple(negative_audio)
        self._check_negatives(str(table))
        self.log_mel_from, self.negative_features = log_mel_from, negative_features
        if log_mel_from == "wav" and audio not in ("silence", "noise") and (count := self.clips_without_wav()):
            words = f"{count} of {len(self.clips)} clips of split {split!r} have no wav: their log-mel files are used"
            print_log(f"{table}: {words}", "current", logging.WARNING)
        self.broken = broken_clips(on_broken, self.test_mode, len(self.clips), max_broken)
        self.metainfo: dict[str, Any] = {
            "subset": self.SUBSET,
            "split": split,
            "num_frames": num_frames,
            "classes": self.classes(),
        }

    def locate(self, data_root: str) -> tuple[Any, Any]:
        """Return the subset's folder and the path of the table of its clips."""
        folder = find_folder(Path(data_root).expanduser(), self.FOLDER, self.TABLE)
        return folder, folder / self.TABLE

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.broken is None:
            return self.read_item(index)
        return self.broken.read(index, self.read_item, lambda i: self.clips[i].name)

    def read_item(self, index: int) -> dict[str, Any]:
        """Read the item of a clip.

        Raises:
            UserError: if a file is missing or cannot be read; names the first one.
        """
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
        """Return all faults of the files of a clip, one line each."""
        clip = self.clips[index]
        faults: list[str] = []
        self.read_pictures(clip, faults)
        path = self.log_mel_path(clip)
        if path is not None and path.is_file():
            attempt(faults, read_log_mel, path, self.existing_frames(clip))
        attempt(faults, read_wav, self.wav_path(clip))
        return faults

    def pack(self, index: int, frames: Sequence[Any], masks: Sequence[Any], log_mel: Tensor) -> dict[str, Any]:
        """Return one item from `(h, w, 3)` frames, the `(h, w)` masks of the first frames and the patches.

        Clips are zero-padded to T frames after the transforms, which process existing frames only.
        """
        clip = self.clips[index]
        video = tv_tensors.Video(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))
        labels = padded(torch.from_numpy(np.stack(masks)), len(frames))
        inputs: dict[str, Any] = {"frames": video}
        if not self.test_mode:
            inputs["gt_masks"] = tv_tensors.Mask(labels)
        for transform in self.pipeline:
            inputs = transform(inputs)
        pictures = padded(inputs["frames"].as_subclass(Tensor), self.num_frames)
        labels = padded(inputs.get("gt_masks", labels).as_subclass(Tensor), self.num_frames)
        frame_index = torch.arange(self.num_frames)
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
            gt_temporal_mask_flag=frame_index < len(masks),
            vid_temporal_mask_flag=frame_index < len(frames),
        )
        return {"frames": pictures, "log_mel": padded(log_mel, self.num_frames), "data_samples": sample}

    def read_pictures(self, clip: Clip, faults: list[str]) -> tuple[list[Any], list[Any]]:
        """Read frames `(h, w, 3)` and masks `(h, w)`; one that cannot be read is None and adds to `faults`."""
        frame_paths, mask_paths = self.frame_paths(clip), self.mask_paths(clip)
        labelled = mask_paths[: self.labelled_frames(clip)]
        frames = read_all(frame_paths, read_frame, faults)
        # Training does not use masks beyond the labelled ones.
        masks = read_all(labelled, self.read_mask, faults, exact=len(labelled) == len(frame_paths))
        first = next((f for f in frames if f is not None), None)
        for path, frame in zip(frame_paths, frames, strict=True):
            if frame is not None and first is not None and frame.shape != first.shape:
                faults.append(f"{path}: expected {pixels(first)} as the clip's other frames, got {pixels(frame)}")
        for path, mask, frame in zip(labelled, masks, frames, strict=False):
            if mask is not None and frame is not None and mask.shape != frame.shape[:2]:
                faults.append(f"{path}: expected a mask of its frame's {pixels(frame)}, got {pixels(mask)}")
        return frames, masks

    def read_log_mel(self, index: int, negative: str | None = None) -> Tensor:
        """Return `(n, 1, 96, 64)` patches for the n frames of a clip, see `log_mel_from`.

        `negative` replaces `audio`, with random numbers from torch's generator.
        """
        num_frames = self.existing_frames(self.clips[index])
        sound = negative or self.audio
        released = self.negative_features == "librosa" and sound != "real"
        if sound == "silence":
            return librosa_patches(np.zeros(0), NOISE_RATE, num_frames) if released else silent_patches(num_frames)
        seed = index if negative is None else int(torch.randint(2**31, ()))
        if sound == "noise" and released:
            return librosa_patches(released_noise(num_frames, seed), NOISE_RATE, num_frames)
        if sound == "noise":
            low, high = NEGATIVE_NOISE_RMS
            rms = NOISE_RMS if negative is None else low * (high / low) ** float(torch.rand(()))
            return white_noise(num_frames, rms, seed)
        if sound == "swap":
            index = pick_mismatched(self.clips, index, seed)
        elif sound == "shuffle":
            index = self.sound_of[index]
        if released:
            return librosa_patches(*self.read_waveform(self.clips[index]), num_frames)
        return self.read_own_log_mel(self.clips[index], num_frames)

    def read_own_log_mel(self, clip: Clip, num_frames: int) -> Tensor:
        """Return the patches of a clip's sound, of its log-mel file or its wav, see `log_mel_from`."""
        path, wav = self.log_mel_path(clip), self.wav_path(clip)
        if path is not None and path.is_file() and (self.log_mel_from == "file" or not wav.is_file()):
            return read_log_mel(path, num_frames)
        return fit_patches(log_mel_patches(*read_wav(wav)), num_frames)

    def read_waveform(self, clip: Clip) -> tuple[np.ndarray, int]:
        """Return a clip's waveform and sample rate, see `read_wav`."""
        return read_wav(self.wav_path(clip))

    def clips_without_wav(self) -> int:
        """Return the number of clips that have a log-mel file, but no wav."""
        paths = ((self.log_mel_path(clip), self.wav_path(clip)) for clip in self.clips)
        return sum(path is not None and path.is_file() and not wav.is_file() for path, wav in paths)

    @abstractmethod
    def read_clips(self, table: Path) -> list[Clip]:
        """Read the clips of all splits."""

    def classes(self) -> tuple[str, ...]:
        """Return the class names: one for binary masks, else one for each class index."""
        return ("sounding",)

    def read_mask(self, path: Path) -> np.ndarray:
        """Read a mask `(h, w)` uint8."""
        return read_mask(path)

    def existing_frames(self, clip: Clip) -> int:
        """Return the number of frames of a clip; it is padded to T."""
        return self.num_frames

    def _draw_negative(self) -> str | None:
        """Draw a wrong sound with probability `negative_audio_prob`; at 0 no random number is drawn."""
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
            raise UserError(f"negative_audio_prob: is for training only; split {self.split!r} is read for testing here")
        if "swap" in kinds:
            if len(self.clips) == 1:
                raise UserError(f"{table}: negative_audio 'swap' needs two clips of split {self.split!r}, found one")
            known = known_kinds(self.clips)
            if known != "visible":
                lacks = "silent visible objects" if known == "category" else "the kinds of objects of a clip"
                print_log(
                    f"{table} does not list {lacks}: a swapped sound may be of a visible object, although the "
                    "masks are empty",
                    "current",
                    logging.WARNING,
                )

    def labelled_frames(self, clip: Clip) -> int:
        """Return how many of the first frames have masks."""
        return self.existing_frames(clip)

    @abstractmethod
    def frame_paths(self, clip: Clip) -> list[Path]:
        """Return the paths of the existing frames."""

    @abstractmethod
    def mask_paths(self, clip: Clip) -> list[Path]:
        """Return the paths of their masks, whether the files exist or not."""

    @abstractmethod
    def wav_path(self, clip: Clip) -> Path:
        """Return the path of the sound."""

    def log_mel_path(self, clip: Clip) -> Path | None:
        """Return the path of the pickled patches, which may be missing; None if the layout has none."""
        return None


class BinarySubset(AVSBench):
    """Base class of S4 and MS3: their common layout and binary masks."""

    def read_clips(self, table: Path) -> list[Clip]:
        return read_clips(table)

    @property
    def data(self) -> Path:
        """The folder that has one folder for each kind of file."""
        return self.folder / f"{self.SUBSET}_data"

    def inner(self, clip: Clip) -> Path:
        """Return the folder of a clip within the folder of each kind of file."""
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
    """S4: one source per clip; training clips have only the first frame's mask. See `AVSBench` for the arguments."""

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
    """MS3: several sources per clip, all frames labelled, some masks empty. See `AVSBench` for the arguments."""

    SUBSET, FOLDER, TABLE = "ms3", "Multi-sources", "ms3_meta_data.csv"

    def frame_paths(self, clip: Clip) -> list[Path]:
        folder = self.data / "visual_frames" / clip.name
        return [folder / f"{clip.name}.mp4_{t}.png" for t in range(1, self.num_frames + 1)]


def padded(values: Tensor, length: int) -> Tensor:
    """Zero-pad `(n, ...)` to `(length, ...)`, contiguous."""
    if len(values) == length:
        return values.contiguous()
    return F.pad(values, [0, 0] * (values.ndim - 1) + [0, length - len(values)]).contiguous()
