"""The prediction for one frame of a video."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int | None], None]  # number of finished frames and of all; None: unknown
SILENCE_DB = -90.0  # level of digital silence


@dataclass(frozen=True, slots=True)
class FramePrediction:
    """Masks of the sounding objects in one frame, at the video's size of h x w pixels.

    Attributes:
        index: number of the predicted frame, from 0.
        time: of the frame, seconds from the video's first picture.
        picture: `(h, w, 3)` uint8 RGB, the frame.
        probability: `(h, w)` uint8 in 1/255, of the foreground; with several classes that of the best class against the
            background, so that it is above 1/2 where this class is the best of all.
        best: `(h, w)` uint8, index of the best class apart from the background; None for one class.
        level: of the sound of the frame, dB of full scale (RMS), at least -90.
    """

    index: int
    time: float
    picture: NDArray[np.uint8]
    probability: NDArray[np.uint8]
    best: NDArray[np.uint8] | None
    level: float

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """Return the mask `(h, w)`: true where the probability is above the threshold."""
        return self.probability > 255 * threshold

    def labels(self, threshold: float = 0.5) -> NDArray[np.uint8] | None:
        """Return class indices `(h, w)`, 0 for the background; None for one class."""
        return None if self.best is None else self.best * self.mask(threshold)

    def by_class(self, threshold: float = 0.5) -> dict[int, NDArray[np.bool_]]:
        """Return masks `(h, w)` by class index, without empty ones; a model of one class has class 1."""
        labels = self.labels(threshold)
        if labels is None:
            mask = self.mask(threshold)
            return {1: mask} if mask.any() else {}
        return {int(i): labels == i for i in np.unique(labels) if i}

    def score(self, threshold: float = 0.5) -> float:
        """Return the mean probability over the mask, 0 if it is empty."""
        return mean_probability(self.probability, self.mask(threshold))


def mean_probability(probability: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Return the mean over a mask of probabilities in 1/255, 0 if it is empty."""
    return float(probability[mask].mean(dtype=np.float64)) / 255 if mask.any() else 0.0


def check_threshold(value: float) -> None:
    """Raise a ValueError unless the threshold is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"threshold: expected a number from 0 to 1, got {value}")
