"""The result of a run, stored on disk, and what is drawn from it at any threshold without the model."""

import shutil
import zipfile
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from avsmamba.inference.prediction import Prediction
from avsmamba.utils import atomic_write
from avsmamba.visualization.overlay import Overlay

Counts = NDArray[np.int64]
_STILL_WIDTH, _SMALLEST_WIDTH = 960, 480  # pixels
_KEPT_STILLS = 8  # of each kind: the browser may still fetch an older one


class Drawn(NamedTuple):
    """Files of one threshold; `other` is the overlay with the other sound."""

    overlay: Path
    timeline: Path
    other: Path | None
    archive: Path


@dataclass
class Run:
    """One pass of the model over a video with one sound.

    Attributes:
        sound: name of the sound.
        folder: holds the probabilities.
        prediction: its arrays are memory maps of files in `folder`.
        counts: `(T, 256)` pixels of each frame by probability in 1/255.
        overlap: `(2, 256)` pixels by the smaller and by the larger of this run's probability and the first run's.
    """

    sound: str
    folder: Path
    prediction: Prediction
    counts: Counts
    overlap: Counts | None = None

    def areas(self, threshold: float) -> Counts:
        """Return the `(T,)` pixels above the threshold."""
        return count_above(self.counts, threshold)

    def mean_inside(self, threshold: float) -> float | None:
        """Return the mean probability of all pixels above the threshold; None without any."""
        inside = self.counts.sum(0) * (np.arange(256) > 255 * threshold)
        return float(inside @ np.arange(256) / inside.sum() / 255) if inside.any() else None


@dataclass
class Result:
    """A video with its own sound and, after a comparison, with another one.

    Attributes:
        folder: holds all files of the result; `frames/` has the T frames.
        name: file name of the video.
        model: name of the model.
        note: one line on the run.
        own: the run with the video's own sound.
        other: the run with another sound.
    """

    folder: Path
    name: str
    model: str
    note: str
    own: Run
    other: Run | None = None
    _numbers: Any = field(default_factory=count)

    @property
    def runs(self) -> list[Run]:
        """The run with the video's own sound and, after a comparison, the other one."""
        return [self.own, self.other] if self.other else [self.own]

    @property
    def times(self) -> list[float]:
        """Times of the T frames, s."""
        return self.own.prediction.times.tolist()

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return int(self.own.counts[0].sum())

    def largest(self, threshold: float) -> float:
        """Return the time of the frame with the largest mask, s."""
        return self.times[int(np.argmax(self.own.areas(threshold)))]

    def stills(self, moment: float, threshold: float) -> list[Path]:
        """Draw the frame at a time, s, with the mask of each run."""
        number = next(self._numbers)
        index = max(0, int(np.searchsorted(self.times, moment + 1e-6)) - 1)
        files = [self.folder / f"{kind}_{number}.jpg" for kind in ("own", "other")[: len(self.runs)]]
        for file, run in zip(files, self.runs, strict=True):
            _write_still(file, frame_file(self.folder, index), run.prediction, index, threshold)
        for old in self.folder.glob("*_*.jpg"):
            if int(old.stem.rpartition("_")[2]) <= number - _KEPT_STILLS:
                old.unlink(missing_ok=True)
        return files

    def summary(self, threshold: float) -> str:
        """Return one line on the size of the masks."""
        areas = self.own.areas(threshold)
        return (
            f"Something is outlined at {np.count_nonzero(areas)} of {len(areas)} moments, "
            f"{areas.mean() / self.pixels:.1%} of the picture on average."
        )

    def comparison(self, threshold: float) -> list[list[str]]:
        """Compare the masks of both runs: rows of a label and two values, the header first; empty without another."""
        if self.other is None or self.other.overlap is None:
            return []
        areas, means = zip(*((run.areas(threshold), run.mean_inside(threshold)) for run in self.runs), strict=True)
        both, either = count_above(self.other.overlap, threshold)
        return [
            ["", *(run.sound for run in self.runs)],
            ["moments with something outlined", *(f"{np.count_nonzero(a)} of {len(a)}" for a in areas)],
            ["share of the picture", *(f"{a.mean() / self.pixels:.2%}" for a in areas)],
            ["mean probability inside", *("–" if mean is None else f"{mean:.2f}" for mean in means)],
            ["overlap of the two (IoU)", f"{both / either:.2f}" if either else "–", ""],
        ]

    def draw(self, threshold: float) -> Drawn:
        """Write overlay, timeline, masks and a zip of them at a threshold; those of the last threshold are deleted."""
        target, stem = self.folder / f"drawn_{next(self._numbers)}", Path(self.name).stem
        for run, folder in zip(self.runs, (target, target / "other_sound"), strict=False):
            run.prediction.threshold(threshold).save(folder)
        lines = [f"{self.name}, model {self.model}, threshold {threshold:g}", self.summary(threshold)]
        lines += [" | ".join(row) for row in self.comparison(threshold)]
        (target / "about.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        files = sorted(path for path in target.rglob("*") if path.is_file())
        archive = target / f"{stem}_threshold_{threshold:.2f}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as pack:  # PNG and MP4 do not compress further
            for path in files:
                pack.write(path, f"{stem}/{path.relative_to(target)}")
        overlay = (target / "overlay.mp4").rename(target / f"{stem}_overlay.mp4")
        for old in self.folder.glob("drawn_*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        other = target / "other_sound" / "overlay.mp4" if self.other else None
        return Drawn(overlay, target / "timeline.png", other, archive)


def count_above(counts: Counts, threshold: float) -> Counts:
    """Return the pixels above the threshold of each row of `(N, 256)`, `(N,)`."""
    return counts[:, np.arange(256) > 255 * threshold].sum(1)


def count_pixels(probability: NDArray[np.uint8]) -> Counts:
    """Return the `(256,)` histogram of probabilities in 1/255."""
    return np.bincount(probability.ravel(), minlength=256)


def frame_file(folder: Path, index: int) -> Path:
    """Return the file of a result's frame."""
    return folder / "frames" / f"{index:06d}.jpg"


def write_jpeg(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a `(h, w, 3)` RGB picture.

    Raises:
        OSError: if it cannot be written.
    """
    if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"{path}: cannot be written")


def _write_still(path: Path, source: Path, prediction: Prediction, index: int, threshold: float) -> None:
    frame, picture = next(islice(prediction.frames(), index, None)), cv2.imread(str(source))
    if picture is None:
        raise FileNotFoundError(f"{source}: was deleted")
    overlay = Overlay(frame.by_class(threshold), prediction.classes, frame.probability.shape)
    picture = overlay.draw(np.ascontiguousarray(picture[..., ::-1]))
    height, width = picture.shape[:2]
    # Browsers show a picture at its own size: small videos are enlarged.
    scale = min(_STILL_WIDTH / width, max(1, -(-_SMALLEST_WIDTH // width)))
    if scale != 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        picture = picture.astype(np.uint8)
    with atomic_write(path) as temporary:
        write_jpeg(temporary, picture)
