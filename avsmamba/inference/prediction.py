"""What a model says of a video: frame by frame, and as a whole."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avsmamba.choices import PREDICTION_FORMATS as FORMATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[int, int | None], None]  # number of frames done and of all; None: not known
SILENCE_DB = -90.0  # what the level of digital silence is given as


@dataclass(frozen=True, slots=True)
class FramePrediction:
    """What sounds in one frame, at the video's size of h x w pixels.

    Attributes:
        index: place among the predicted frames, from 0.
        time: of the frame, seconds from the video's first picture.
        picture: `(h, w, 3)` uint8 RGB, the frame.
        probability: `(h, w)` uint8 in 1/255, of the foreground; of a model of several classes that of the best class
            against the background, so that above one half is where that class is the best of all.
        best: `(h, w)` uint8, of several classes the best apart from the background; None for one class.
        level: of the sound that was heard with the frame, dB of full scale (RMS), at least -90.
    """

    index: int
    time: float
    picture: NDArray[np.uint8]
    probability: NDArray[np.uint8]
    best: NDArray[np.uint8] | None
    level: float

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """`(h, w)`, where the probability is above the threshold."""
        return self.probability > 255 * threshold

    def labels(self, threshold: float = 0.5) -> NDArray[np.uint8] | None:
        """`(h, w)` class indices, 0 for the background; None for one class."""
        return None if self.best is None else self.best * self.mask(threshold)

    def by_class(self, threshold: float = 0.5) -> dict[int, NDArray[np.bool_]]:
        """`(h, w)` masks by class index, of the classes that sound; a model of one class has class 1."""
        labels = self.labels(threshold)
        if labels is None:
            mask = self.mask(threshold)
            return {1: mask} if mask.any() else {}
        return {int(i): labels == i for i in np.unique(labels) if i}

    def score(self, threshold: float = 0.5) -> float:
        """Mean probability over the mask, 0 where it is empty."""
        return mean_probability(self.probability, self.mask(threshold))


def mean_probability(probability: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Mean over a mask of probabilities in 1/255, 0 where it is empty."""
    return float(probability[mask].mean(dtype=np.float64)) / 255 if mask.any() else 0.0


@dataclass(frozen=True)
class Prediction:
    """What sounds in a video of T predicted frames of h x w pixels.

    Attributes:
        times: `(T,)` of the frames, seconds from the video's first picture.
        probabilities: `(T, h, w)` uint8 in 1/255, see `FramePrediction`.
        best: `(T, h, w)` uint8, of several classes the best apart from the background; None for one class.
        levels: `(T,)` of the sound, dB of full scale.
        classes: names by class index, the background first; of one class `("sounding",)`.
        cutoff: the threshold of `masks`, `labels` and `scores`.
        fps: predicted frames a second.
        pictures: T small pictures `(h', w', 3)` uint8 RGB of the frames, for `plot`.
        source: the video's path, or what `predict` was given instead.
        audio: what was heard: 'real', 'silence' or a path.
    """

    times: NDArray[np.float64]
    probabilities: NDArray[np.uint8]
    best: NDArray[np.uint8] | None
    levels: NDArray[np.float64]
    classes: Sequence[str]
    cutoff: float
    fps: float
    pictures: Sequence[NDArray[np.uint8]]
    source: Any
    audio: str | Path = "real"

    def __len__(self) -> int:
        return len(self.times)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """`(T, h, w)`, true where something sounds."""
        return self.probabilities > 255 * self.cutoff

    @property
    def labels(self) -> NDArray[np.uint8] | None:
        """`(T, h, w)` class indices, 0 where nothing sounds; None for a model of one class."""
        return None if self.best is None else self.best * self.masks

    @property
    def scores(self) -> NDArray[np.float64]:
        """`(T,)` mean probability over each mask, 0 where it is empty."""
        return np.array([frame.score(self.cutoff) for frame in self.frames()])

    def threshold(self, value: float) -> "Prediction":
        """The same prediction with masks above another threshold; the model does not run again.

        Raises:
            ValueError: if the threshold is not from 0 to 1.
        """
        check_threshold(value)
        return replace(self, cutoff=value)

    def frames(self) -> Iterator[FramePrediction]:
        """The frames one by one; their `picture` is the small one."""
        for i, time in enumerate(self.times):
            best = None if self.best is None else self.best[i]
            yield FramePrediction(i, float(time), self.pictures[i], self.probabilities[i], best, float(self.levels[i]))

    def save(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> Path:
        """Write what `avsmamba predict` writes.

        Args:
            folder: gets `overlay.mp4`, `masks/`, `masks.json` and `timeline.png`.
            formats: some of 'overlay', 'masks', 'json', 'timeline'.

        Returns:
            The folder.

        Raises:
            UserError: if a format is unknown, or a file cannot be written.
        """
        from avsmamba.inference.outputs import save_prediction

        return save_prediction(self, Path(folder), formats)

    def plot(self, most: int = 6) -> "Figure":
        """A figure: up to `most` frames, evenly spread, with what sounds in them, over the timeline."""
        from avsmamba.visualization.timeline import prediction_figure

        return prediction_figure(self, most)


def check_threshold(value: float) -> None:
    """Raise a ValueError unless the threshold is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {value}")
