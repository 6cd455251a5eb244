"""AVSBench-semantic (AVSS): clips of 5 or 10 frames, masks of class indices."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from avsmamba.datasets.avsbench import AVSBench
from avsmamba.datasets.clip_table import Clip, read_semantic_clips
from avsmamba.datasets.readers import read_class_colours, read_class_indices
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError, one_line

FRAMES = {"v1s": 5, "v1m": 5, "v2": 10}
INDICES, COLOURS = "labels_semantic", "labels_rgb"


@DATASETS.register_module()
class AVSBenchAVSS(AVSBench):
    """AVSS: parts v1s and v1m of 5 frames and v2 of 10, padded at the end; a v1s training clip has one mask.

    Masks hold class indices by `label2idx.json`, read from `labels_semantic/` or, if that folder is missing, from the
    colours in `labels_rgb/`. See `AVSBench` for the other arguments and errors.

    For `audio: swap` the classes of a clip's objects are read from `a_obj`, else from its masks.

    Args:
        num_frames: T, to which every clip is padded; at least 10.
    """

    SUBSET, FOLDER, TABLE = "avss", "AVSS", "metadata.csv"

    def __init__(
        self,
        data_root: str | Path,
        split: str,
        pipeline: Any = (),
        audio: str = "real",
        num_frames: int = 10,
        test_mode: bool | None = None,
        log_mel_from: str = "file",
        negative_features: str = "vggish",
        on_broken: str = "raise",
        max_broken: int = 100,
    ):
        if num_frames < max(FRAMES.values()):
            raise UserError(f"num_frames: expected at least {max(FRAMES.values())} for AVSS, got {num_frames}")
        super().__init__(
            data_root,
            split,
            pipeline,
            audio,
            num_frames,
            test_mode,
            log_mel_from=log_mel_from,
            negative_features=negative_features,
            on_broken=on_broken,
            max_broken=max_broken,
        )
        if audio == "swap":
            self.clips = [clip if clip.sounding else self._with_kinds(clip) for clip in self.clips]

    def read_clips(self, table: Path) -> list[Clip]:
        clips = read_semantic_clips(table)
        classes = frozenset(self.classes())
        kinds = [object_classes(clip.category, classes) for clip in clips]
        return [clip._replace(sounding=k, visible=k) for clip, k in zip(clips, kinds, strict=True)]

    def _with_kinds(self, clip: Clip) -> Clip:
        """Return a clip with the classes of its masks as sounding and visible kinds."""
        masks = [self.read_mask(path) for path in self.mask_paths(clip)[: self.labelled_frames(clip)]]
        indices = sorted({int(i) for mask in masks for i in np.unique(mask)} - {0})
        kinds = frozenset(self.metainfo["classes"][i] for i in indices)
        return clip._replace(sounding=kinds, visible=kinds)

    def classes(self) -> tuple[str, ...]:
        return read_classes(self.folder / "label2idx.json")

    def existing_frames(self, clip: Clip) -> int:
        return FRAMES[clip.part]

    def labelled_frames(self, clip: Clip) -> int:
        return 1 if (clip.part, clip.split) == ("v1s", "train") else FRAMES[clip.part]

    def clip_folder(self, clip: Clip) -> Path:
        """Return `{part}/{part}/{uid}` if it exists, else `{part}/{uid}`."""
        twice = self.folder / clip.part / clip.part / clip.name
        return twice if twice.is_dir() else self.folder / clip.part / clip.name

    def frame_paths(self, clip: Clip) -> list[Path]:
        return [self.clip_folder(clip) / "frames" / f"{t}.jpg" for t in range(FRAMES[clip.part])]

    def mask_paths(self, clip: Clip) -> list[Path]:
        folder = self.clip_folder(clip)
        kind = INDICES if (folder / INDICES).is_dir() or not (folder / COLOURS).is_dir() else COLOURS
        return [folder / kind / f"{t}.png" for t in range(FRAMES[clip.part])]

    def wav_path(self, clip: Clip) -> Path:
        return self.clip_folder(clip) / "audio.wav"

    def read_mask(self, path: Path) -> np.ndarray:
        mask = read_class_indices(path) if path.parent.name == INDICES else read_class_colours(path)
        count = len(self.metainfo["classes"])
        if mask.max() >= count:
            raise UserError(f"{path}: expected class indices 0 to {count - 1} by label2idx.json, got {mask.max()}")
        return mask


def object_classes(text: str, classes: Collection[str]) -> frozenset[str]:
    """Return the class names that `a_obj` joins by `+`, `,` or `_`; none if one of its parts is not a class."""
    parts = [part.strip() for part in re.split("[+,]", text)]
    names = {name for part in parts for name in ([part] if part in classes else part.split("_"))}
    return frozenset(names) if names <= set(classes) else frozenset()


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the class names by index, the background first.

    Raises:
        UserError: if the file is missing, or does not number its names from 0.
    """
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the classes of AVSS by name") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {one_line(error)}") from None
    if not isinstance(numbers, dict) or not numbers or not all(type(n) is int for n in numbers.values()):
        raise UserError(f"{path}: expected class names, each with its index")
    if sorted(numbers.values()) != list(range(len(numbers))) or len(numbers) > 256:
        raise UserError(f"{path}: expected the indices 0 to {len(numbers) - 1} (at most 255), each once")
    return tuple(sorted(numbers, key=numbers.__getitem__))
