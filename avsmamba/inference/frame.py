"""What a model predicts for one frame of a video."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int | None], None]  # number of frames done and of all; None: unknown
SILENCE_DB = -90.0  # level of digital silence


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


def check_threshold(value: float) -> None:
    """Raise a ValueError unless the threshold is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {value}")
