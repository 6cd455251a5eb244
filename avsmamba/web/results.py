"""What a run has found, kept on the disk, and everything that is drawn of it at any threshold without the model."""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from avsmamba.inference.prediction import Prediction
from avsmamba.utils import atomic_write
from avsmamba.visualization.overlay import Overlay

Counts = NDArray[np.int64]
OWN = "its own sound"
_STILL_WIDTH, _SMALLEST_WIDTH = 960, 480
_KEPT = 8  # stills of a kind that stay: a browser may still be fetching an older one


class Drawn(NamedTuple):
    """Files of one threshold: the overlay, the timeline, the overlay with the other sound if there is one, and all."""

    overlay: Path
    timeline: Path
    other: Path | None
    archive: Path


class Stills(Sequence[NDArray[np.uint8]]):
    """Pictures on the disk, `(H, W, 3)` uint8 RGB each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.length = 0

    def append(self, picture: NDArray[np.uint8]) -> None:
        """Write the next one."""
        _write_jpeg(self.folder / f"{self.length:06d}.jpg", picture)
        self.length += 1

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, place: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, place: slice) -> list[NDArray[np.uint8]]: ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(self.length))]
        if not 0 <= place < self.length:
            raise IndexError(place)
        picture = cv2.imread(str(self.folder / f"{place:06d}.jpg"))
        if picture is None:
            raise FileNotFoundError(f"picture {place} is gone")
        return np.ascontiguousarray(picture[..., ::-1])


@dataclass
class Run:
    """One pass of the model: its prediction, with probabilities on the disk, and how many pixels have which.

    Attributes:
        folder: where its probabilities lie.
        prediction: what the model says.
        counts: `(T, 256)`, pixels of each frame by probability in 1/255.
    """

    folder: Path
    prediction: Prediction
    counts: Counts

    def areas(self, threshold: float) -> Counts:
        """`(T,)` pixels above the threshold."""
        return above(self.counts, threshold)

    def mean_inside(self, threshold: float) -> float | None:
        """Mean probability of all pixels above the threshold; None without any."""
        inside = self.counts.sum(0) * (np.arange(256) > 255 * threshold)
        return float(inside @ np.arange(256) / inside.sum() / 255) if inside.any() else None


@dataclass
class Comparison:
    """The same pictures with another sound.

    Attributes:
        name: what that sound is.
        run: what the model says with it.
        both: `(T, 256)`, pixels by the smaller of the two probabilities: above a threshold there, both masks have them.
        either: `(T, 256)`, pixels by the larger one.
    """

    name: str
    run: Run
    both: Counts
    either: Counts


@dataclass
class Result:
    """A video with its own sound and, once it was asked for, with another.

    Attributes:
        folder: holds all files of it.
        name: of the video, as the user knows it.
        model: the name of the model.
        note: one line on the run.
        pictures: the T frames.
        own: with its own sound.
        other: with another one.
    """

    folder: Path
    name: str
    model: str
    note: str
    pictures: Stills
    own: Run
    other: Comparison | None = None
    _numbers: Any = field(default_factory=count)

    @property
    def times(self) -> list[float]:
        """Of the predicted frames, s."""
        return self.own.prediction.times.tolist()

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return int(self.own.counts[0].sum())

    def busiest(self, threshold: float) -> float:
        """The moment at which the largest part of the picture sounds, s."""
        return self.times[int(np.argmax(self.own.areas(threshold)))]

    def stills(self, moment: float, threshold: float) -> list[Path]:
        """The picture at a moment, s, with what sounds outlined, and that with the other sound if there is one."""
        number = next(self._numbers)
        place = max(0, int(np.searchsorted(self.times, moment + 1e-6)) - 1)
        runs = {"own": self.own, **({"other": self.other.run} if self.other else {})}
        files = []
        for kind, run in runs.items():
            files.append(self.folder / f"{kind}_{number}.jpg")
            _write_still(files[-1], run.prediction, place, threshold)
        for old in self.folder.glob("*_*.jpg"):
            if int(old.stem.rpartition("_")[2]) <= number - _KEPT:
                old.unlink(missing_ok=True)
        return files

    def numbers(self, threshold: float) -> str:
        """One line on how much sounds."""
        areas = self.own.areas(threshold)
        return (
            f"Something is outlined at {np.count_nonzero(areas)} of {len(areas)} moments, "
            f"{areas.mean() / self.pixels:.1%} of the picture on average."
        )

    def change(self, threshold: float) -> list[list[str]]:
        """How the masks differ with the other sound: rows of words and two values, the first row the head."""
        if self.other is None:
            return []
        runs = (self.own, self.other.run)
        areas, means = [run.areas(threshold) for run in runs], [run.mean_inside(threshold) for run in runs]
        common, all_of_both = (int(above(c, threshold).sum()) for c in (self.other.both, self.other.either))
        return [
            ["", OWN, self.other.name],
            ["moments with something outlined", *(f"{np.count_nonzero(a)} of {len(a)}" for a in areas)],
            ["share of the picture", *(f"{a.mean() / self.pixels:.2%}" for a in areas)],
            ["mean probability inside", *("–" if mean is None else f"{mean:.2f}" for mean in means)],
            ["overlap of the two (IoU)", f"{common / all_of_both:.2f}" if all_of_both else "–", ""],
        ]

    def draw(self, threshold: float) -> Drawn:
        """Write overlay, timeline, masks and the zip of them at a threshold. The model does not run."""
        target = self.folder / f"drawn_{next(self._numbers)}"
        stem = Path(self.name).stem
        self.own.prediction.threshold(threshold).save(target)
        other = None
        if self.other is not None:
            self.other.run.prediction.threshold(threshold).save(target / "other_sound")
            other = target / "other_sound" / "overlay.mp4"
        lines = [f"{self.name}, model {self.model}, threshold {threshold:g}", self.numbers(threshold)]
        lines += [" | ".join(row) for row in self.change(threshold)]
        (target / "about.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        files = sorted(path for path in target.rglob("*") if path.is_file())
        archive = target / f"{stem}_threshold_{threshold:.2f}.zip"
        # Pictures and videos are compressed already.
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as pack:
            for path in files:
                pack.write(path, f"{stem}/{path.relative_to(target)}")
        overlay = (target / "overlay.mp4").rename(target / f"{stem}_overlay.mp4")
        for old in self.folder.glob("drawn_*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        return Drawn(overlay, target / "timeline.png", other, archive)


def above(counts: Counts, threshold: float) -> Counts:
    """Pixels of each row of `(T, 256)` whose probability is above the threshold, `(T,)`."""
    return counts[:, np.arange(256) > 255 * threshold].sum(1)


def count_pixels(probability: NDArray[np.uint8]) -> Counts:
    """`(256,)`, how many pixels of `(h, w)` have which probability in 1/255."""
    return np.bincount(probability.ravel(), minlength=256)


def _write_still(path: Path, prediction: Prediction, place: int, threshold: float) -> None:
    frame = next(islice(prediction.frames(), place, None))
    picture = Overlay(frame.by_class(threshold), prediction.classes, frame.probability.shape).draw(frame.picture)
    height, width = picture.shape[:2]
    # Small videos are shown larger: browsers show a picture at its own size.
    scale = min(_STILL_WIDTH / width, max(1, -(-_SMALLEST_WIDTH // width)))
    if scale != 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        picture = picture.astype(np.uint8)
    with atomic_write(path) as temporary:
        _write_jpeg(temporary, picture)


def _write_jpeg(path: Path, picture: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]):
        raise OSError(f"{path}: cannot be written")
