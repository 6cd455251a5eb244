"""The prediction for a whole video, in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avsmamba.choices import PREDICTION_FORMATS as FORMATS
from avsmamba.inference.frame import FramePrediction, check_threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Prediction:
    """Masks of the sounding objects in T predicted frames of h x w pixels.

    Attributes:
        times: `(T,)` of the frames, seconds from the video's first picture.
        probabilities: `(T, h, w)` uint8 in 1/255, see `FramePrediction`.
        best: `(T, h, w)` uint8, index of the best class apart from the background; None for one class.
        levels: `(T,)` of the sound, dB of full scale.
        classes: names by class index, the background first; of one class `("sounding",)`.
        cutoff: threshold of `masks`, `labels` and `scores`.
        fps: predicted frames per second.
        pictures: T small pictures `(h', w', 3)` uint8 RGB of the frames, for `plot`.
        source: the argument `video` of `predict`.
        audio: sound that the model got: 'real', 'silence' or a path.
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
        """Return masks `(T, h, w)`, true where something sounds."""
        return self.probabilities > 255 * self.cutoff

    @property
    def labels(self) -> NDArray[np.uint8] | None:
        """Return class indices `(T, h, w)`, 0 where nothing sounds; None for a model of one class."""
        return None if self.best is None else self.best * self.masks

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the mean probability over each mask `(T,)`, 0 if it is empty."""
        return np.array([frame.score(self.cutoff) for frame in self.frames()])

    def threshold(self, value: float) -> "Prediction":
        """Return the prediction with another threshold; the model does not run again.

        Raises:
            ValueError: if the threshold is not from 0 to 1.
        """
        check_threshold(value)
        return replace(self, cutoff=value)

    def frames(self) -> Iterator[FramePrediction]:
        """Yield the frames; their `picture` is the small one."""
        for i, time in enumerate(self.times):
            best = None if self.best is None else self.best[i]
            yield FramePrediction(i, float(time), self.pictures[i], self.probabilities[i], best, float(self.levels[i]))

    def save(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> Path:
        """Write the files of `avsmamba predict`.

        Args:
            folder: for `overlay.mp4`, `masks/`, `masks.json` and `timeline.png`.
            formats: some of 'overlay', 'masks', 'json', 'timeline'.

        Returns:
            The folder.

        Raises:
            UserError: if a format is unknown, or a file cannot be written.
        """
        from avsmamba.inference.outputs import Outputs, check_formats, output_folder
        from avsmamba.inference.records import RECORDS, Records
        from avsmamba.inference.sources import audio_file, open_source, stem_of

        check_formats(formats)
        folder = Path(folder)
        with (
            open_source(self.source, self.fps) as source,
            output_folder(folder),
            TemporaryDirectory(prefix=".saving.", dir=folder) as scratch,
        ):
            sound = audio_file(source, self.audio, Path(scratch))
            outputs = Outputs(folder, stem_of(self.source), source, sound, self.classes, self.fps, formats)
            records = Records(Path(scratch) / RECORDS)
            for frame in self.frames():
                records.append(frame, self.cutoff)
            records.mark("predicted")
            outputs.render(records)
        return folder

    def plot(self, most: int = 6) -> "Figure":
        """Draw up to `most` evenly spaced frames with their masks, above the timeline.

        Raises:
            ValueError: if `most` is not positive.
        """
        from avsmamba.visualization.timeline import clip_figure

        if most < 1:
            raise ValueError(f"most: expected at least 1 frame, got {most}")
        count = min(most, len(self))
        shown = {i * len(self) // count for i in range(count)}
        shares: dict[int, NDArray[np.float64]] = {}
        pictures = []
        for frame in self.frames():
            masks = frame.by_class(self.cutoff)
            for index, mask in masks.items():
                shares.setdefault(index, np.zeros(len(self)))[frame.index] = mask.mean()
            if frame.index in shown:
                pictures.append((frame.time, frame.picture, masks))
        return clip_figure(pictures, self.times, self.levels, shares, self.classes, self.fps)
