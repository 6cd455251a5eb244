"""Write clips in AVSBench's layout, see docs/avsbench.md."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from avsmamba.datasets.log_mel import SAMPLE_RATE
from avsmamba.datasets.palette import to_colours
from avsmamba.own_data.clips import Content
from avsmamba.own_data.labelled import UNNAMED
from avsmamba.utils import UserError, one_line

# Folder, table and its columns by subset. Which silent objects are visible is not known: there is no such column.
SUBSETS = {
    "s4": ("Single-source", "s4_meta_data.csv", ("name", "start", "category", "split")),
    "ms3": ("Multi-sources", "ms3_meta_data.csv", ("name", "category", "split")),
    "avss": ("AVSS", "metadata.csv", ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")),
}
PARTS = {5: "v1m", 10: "v2"}  # of AVSS by seconds


@dataclass
class Layout:
    """Writer of one subset.

    Args:
        folder: that becomes `Single-source`, `Multi-sources` or `AVSS`.
        subset: 's4', 'ms3' or 'avss'.
        classes: names by index in AVSS, the background first.
        shorter: shorter side of larger pictures and masks, pixels; 0 keeps their size.
    """

    folder: Path
    subset: str
    classes: Sequence[str] = ()
    shorter: int = 0
    rows: list[list[Any]] = field(default_factory=list)

    def write(self, content: Content) -> None:
        """Write a clip's files and add its row.

        Raises:
            UserError: if its categories do not fit the subset, or a file cannot be written.
        """
        try:
            if self.subset == "avss":
                self._write_semantic(content)
            else:
                self._write_binary(content)
        except (OSError, soundfile.SoundFileError) as error:
            raise UserError(f"{self.folder}: cannot be written: {one_line(error)}") from None

    def write_table(self) -> None:
        """Write the table of clips and, for AVSS, the classes."""
        _, table, heads = SUBSETS[self.subset]
        with open(self.folder / table, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([heads, *self.rows])
        if self.subset == "avss":
            write_classes(self.folder, self.classes)

    def wav(self, clip: Any) -> Path:
        """Return the path of a clip's sound, relative to `folder`; `clip` has name, split, category and part."""
        if self.subset == "avss":
            return Path(clip.part, clip.name, "audio.wav")
        inner = Path(clip.split, clip.category) if self.subset == "s4" else Path(clip.split)
        return Path(f"{self.subset}_data", "audio_wav") / inner / f"{clip.name}.wav"

    def _write_semantic(self, content: Content) -> None:
        clip, part = content.clip, PARTS[len(content.pictures)]
        folder = self.folder / part / clip.name
        for t, (picture, objects) in enumerate(zip(content.pictures, content.objects, strict=True)):
            labels = np.zeros(picture.shape[:2], np.uint8)
            for category, mask in objects:
                if category not in self.classes:
                    known = ", ".join(self.classes[1:])
                    raise UserError(f"{clip.timeline.video.where}: category {category!r} is not in --classes: {known}")
                labels[mask] = self.classes.index(category)
            labels = self._resized(labels, cv2.INTER_NEAREST)
            _write(folder / "frames" / f"{t}.jpg", self._resized(picture)[..., ::-1])
            _write(folder / "labels_semantic" / f"{t}.png", labels)
            _write(folder / "labels_rgb" / f"{t}.png", to_colours(labels)[..., ::-1])
        _write_sound(folder / "audio.wav", content)
        minutes, seconds = divmod(clip.start, 60)
        names = "+".join(content.categories)
        self.rows.append([clip.timeline.video.name, clip.name, minutes, seconds, names, clip.split, part])

    def _write_binary(self, content: Content) -> None:
        clip, data = content.clip, self.folder / f"{self.subset}_data"
        kinds = [name for name in content.categories if name != UNNAMED]
        if self.subset == "s4":
            category = self._category(content, kinds)
            inner = Path(clip.split, category)
            pictures, stem = data / "visual_frames" / inner / clip.name, f"{clip.name}_"
            row: list[Any] = [clip.name, clip.start, category, clip.split]
        else:
            inner = Path(clip.split)
            pictures, stem = data / "visual_frames" / clip.name, f"{clip.name}.mp4_"
            row = [clip.name, "+".join(kinds), clip.split]
        for t, picture in enumerate(content.pictures, 1):
            _write(pictures / f"{stem}{t}.png", self._resized(picture)[..., ::-1])
        for t, objects in enumerate(content.objects, 1):
            mask = np.zeros(content.pictures[0].shape[:2], np.uint8)
            for _, part in objects:
                mask[part] = 255
            _write(
                data / "gt_masks" / inner / clip.name / f"{clip.name}_{t}.png", self._resized(mask, cv2.INTER_NEAREST)
            )
        _write_sound(data / "audio_wav" / inner / f"{clip.name}.wav", content)
        self.rows.append(row)

    def _category(self, content: Content, kinds: Sequence[str]) -> str:
        """Return the category of a clip of S4: that of the table, else that of its objects."""
        clip = content.clip
        category = clip.category or "+".join(kinds) or UNNAMED
        if "+" in category:
            raise UserError(
                f"{clip.timeline.video.where}: {clip.name} has the categories {category}, a clip of S4 has one; use "
                "--to ms3, or name one for each video in --split-file"
            )
        if category in (".", "..") or re.search(r"[/\\\0]", category):
            raise UserError(f"{clip.timeline.video.where}: category {category!r} cannot be the name of a folder")
        return category

    def _resized(self, picture: NDArray[Any], interpolation: int = cv2.INTER_AREA) -> NDArray[Any]:
        height, width = picture.shape[:2]
        if not self.shorter or min(height, width) <= self.shorter:
            return picture
        scale = self.shorter / min(height, width)
        return cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=interpolation)


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write `label2idx.json`, the index of each class."""
    indices = {name: index for index, name in enumerate(classes)}
    text = json.dumps(indices, indent=2, ensure_ascii=False)
    (folder / "label2idx.json").write_text(text + "\n", encoding="utf-8")


def _write(path: Path, picture: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, code = cv2.imencode(path.suffix, picture)  # JPEG at OpenCV's default quality 95
    if not done:
        raise UserError(f"{path}: cannot be encoded")
    path.write_bytes(code.tobytes())


def _write_sound(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, content.wave, SAMPLE_RATE, subtype="PCM_16")
