"""A trained model on a video of any length, window by window."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import tv_tensors

from avsmamba.datasets.log_mel import SAMPLE_RATE, log_mel_patches
from avsmamba.datasets.readers import SHORTEST, fit_patches
from avsmamba.inference.prediction import SILENCE_DB, FramePrediction, Prediction, Progress, check_threshold
from avsmamba.inference.sources import Listener, name_of, open_source
from avsmamba.inference.windows import blended, first_window
from avsmamba.registry import TRANSFORMS
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError

_CLASSES_AT_ONCE = 8  # that are brought to the video's size together: 71 classes of a large picture fill the memory
_SMALL_HEIGHT = 180  # of the pictures that a Prediction keeps, pixels


@dataclass(slots=True)
class Seen:
    """A frame on its way through the windows: its picture, and what the model sees of it, `(3, H', W')` uint8."""

    index: int
    time: float
    picture: NDArray[np.uint8]
    frame: Tensor
    level: float = SILENCE_DB


def level_of(wave: NDArray[np.floating]) -> float:
    """RMS of a sound in dB of full scale, at least -90."""
    power = float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0
    return max(SILENCE_DB, 10 * float(np.log10(max(power, 1e-30))))


def check_stream(fps: float, overlap: int | None, size: Sequence[int] | int | None, num_frames: int) -> int:
    """Check what `Predictor.stream` takes; the overlap, frames.

    Raises:
        ValueError: naming what does not fit.
    """
    if not 0 < fps <= 1000:
        raise ValueError(f"fps: expected a positive number of frames a second, got {fps}")
    if overlap is not None and not 0 <= overlap < num_frames:
        raise ValueError(f"overlap: expected 0 to {num_frames - 1} of a window of {num_frames} frames, got {overlap}")
    pair = [size] if isinstance(size, int) else list(size or [])
    if len(pair) > 2 or any(n < 32 for n in pair):
        raise ValueError(f"size: expected [height, width] or one number of at least 32 pixels, got {size}")
    return num_frames // 3 if overlap is None else overlap


class Predictor:
    """A trained model and what it takes to run it on a video; `load_model` makes one.

    Args:
        model: an `AVSSegmentor` in evaluation.
        cfg: its config.
        classes: names by class index, the background first; of one class `("sounding",)`.
        num_frames: T, frames of a clip that it was trained on and of a window here.
        pipeline: configs of what a test does to frames.

    Attributes:
        model: an `AVSSegmentor` in evaluation.
        cfg: its config.
        classes: names by class index, the background first; of one class `("sounding",)`.
        num_frames: T, frames of a clip that it was trained on and of a window here.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg: Config,
        classes: Sequence[str],
        num_frames: int,
        pipeline: Sequence[dict[str, Any]] = (),
    ):
        self.model, self.cfg, self.classes = model, cfg, tuple(classes)
        self.pipeline, self.num_frames = pipeline, num_frames

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the config of the model and of its weights, as they are when it is asked for first."""
        digest = hashlib.sha256(repr(sorted(self.cfg.model.to_dict().items())).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def stream(
        self,
        video: Any,
        fps: float = 1.0,
        size: Sequence[int] | int | None = None,
        overlap: int | None = None,
        audio: str | Path = "real",
        first: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[FramePrediction]:
        """Predict frame by frame in constant memory: a window of frames is held, whatever the video's length.

        Windows of T frames run through the model, the last one moved back to end with the video; logits of frames that
        several windows hold are averaged with weights that fall towards a window's edges. At 1 frame a second a window
        hears what a clip of AVSBench of its T seconds would (log-mel patches every 0.96 s); at another rate each frame
        hears the 0.975 s from its time on.

        Args:
            video: a path (a file, or a folder of pictures with a wav), an open `avsmamba.video.Video`, or
                `(frames (T, H, W, 3) uint8 RGB, waveform (samples[, channels]) or None, sample_rate in Hz)` with `fps`
                frames a second.
            fps: frames to predict a second; models are trained on 1.
            size: at which the model sees the frames, [height, width] or one number, pixels; default: the config's.
            overlap: frames that windows share, less than T; default: T // 3.
            audio: 'real', 'silence', or the path of another sound (a wav, a video).
            first: the frame to begin with; it and all later ones are as they would be from the beginning.
            progress: called with the number of frames predicted and of all (None: not known), first with 0.

        Raises:
            UserError: if a file cannot be read.
            ValueError: if an argument does not fit.
        """
        overlap = check_stream(fps, overlap, size, self.num_frames)
        look = self.transforms(size)
        with ExitStack() as stack:
            source = stack.enter_context(open_source(video, fps))
            sound = Listener(self.listen(stack, source, video, audio))
            duration = source.info.duration
            total = max(1, int(np.ceil(duration * fps - 1e-6))) if duration else None
            begin = first_window(first, self.num_frames, overlap)
            done = first

            def frames() -> Iterator[Seen]:
                for k, (_, picture) in enumerate(source.sampled(fps, begin / fps), begin):
                    if k == begin and progress:
                        progress(done, total)
                    yield Seen(k, k / fps, picture, look(picture))

            def run(window: Sequence[Seen]) -> Tensor:
                return self.run(window, sound, fps)

            for seen, logits in blended(frames(), self.num_frames, overlap, run):
                if seen.index < first:
                    continue
                probability, best = self.finish(logits, seen.frame.shape[-2:], seen.picture.shape[:2])
                yield FramePrediction(seen.index, seen.time, seen.picture, probability, best, seen.level)
                done = seen.index + 1
                if progress:
                    progress(done, total)

    def predict(
        self,
        video: Any,
        fps: float = 1.0,
        size: Sequence[int] | int | None = None,
        overlap: int | None = None,
        threshold: float = 0.5,
        audio: str | Path = "real",
        progress: Progress | None = None,
    ) -> Prediction:
        """Predict a whole video; a byte a pixel and frame is kept (two for several classes). See `stream`.

        Args:
            video: as in `stream`.
            fps: as in `stream`.
            size: as in `stream`.
            overlap: as in `stream`.
            threshold: of the masks, which `Prediction.threshold` can change later.
            audio: as in `stream`.
            progress: as in `stream`.

        Raises:
            UserError: if a file cannot be read or has no picture.
            ValueError: if an argument does not fit.
        """
        check_threshold(threshold)
        found, pictures = [], []
        for frame in self.stream(video, fps, size, overlap, audio, progress=progress):
            pictures.append(small(frame.picture))
            found.append(replace(frame, picture=pictures[-1]))
        if not found:
            raise UserError(f"{name_of(video)}: has no picture that can be decoded")
        best = None if found[0].best is None else np.stack([f.best for f in found if f.best is not None])
        return Prediction(
            times=np.array([f.time for f in found]),
            probabilities=np.stack([f.probability for f in found]),
            best=best,
            levels=np.array([f.level for f in found]),
            classes=self.classes,
            cutoff=threshold,
            fps=fps,
            pictures=pictures,
            source=video,
            audio=audio,
        )

    def transforms(self, size: Sequence[int] | int | None) -> Callable[[NDArray[np.uint8]], Tensor]:
        """What the config's tests do to a frame: `(h, w, 3)` to `(3, H, W)`, here with another size."""
        configs = [dict(c) for c in self.pipeline]
        if size is not None:
            pair = [size] if isinstance(size, int) else list(size)
            configs = [c for c in configs if c.get("type") != "Resize"]
            configs.append({"type": "Resize", "size": pair * 2 if len(pair) == 1 else pair})
        steps = [TRANSFORMS.build(c) for c in configs]

        def look(picture: NDArray[np.uint8]) -> Tensor:
            clip = {"frames": tv_tensors.Video(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None])}
            for step in steps:
                clip = step(clip)
            return clip["frames"].as_subclass(Tensor)[0]

        return look

    def listen(self, stack: ExitStack, source: Any, video: Any, audio: str | Path) -> Any:
        """What reads the sound, or None for silence."""
        if str(audio) == "silence":
            return None
        if str(audio) != "real":
            from avsmamba.video import open_sound

            return stack.enter_context(open_sound(audio)).read
        if not source.info.has_audio:
            warnings.warn(f"{name_of(video)}: has no sound track: the model hears silence", stacklevel=3)
            return None
        return source.sound

    @torch.no_grad()
    def run(self, window: Sequence[Seen], sound: Listener, fps: float) -> Tensor:
        """Logits `(n, N, h, w)` of a window of n frames; the level of each frame's sound is put on it."""
        count, begin = len(window), round(window[0].time * SAMPLE_RATE)
        patch = round(SHORTEST * SAMPLE_RATE)
        if fps == 1:
            wave = sound.get(begin, count * SAMPLE_RATE)
            patches = fit_patches(log_mel_patches(wave, SAMPLE_RATE), count)
            heard = np.split(wave, count)
        else:
            starts = [round(seen.time * SAMPLE_RATE) - begin for seen in window]
            wave = sound.get(begin, starts[-1] + patch)
            heard = [wave[start : start + patch] for start in starts]
            patches = torch.cat([log_mel_patches(part, SAMPLE_RATE) for part in heard])
        for seen, part in zip(window, heard, strict=True):
            seen.level = level_of(part)
        data = {"frames": [torch.stack([seen.frame for seen in window])], "log_mel": [patches]}
        data = self.model.data_preprocessor(data)
        return self.model(data["frames"], data["log_mel"])[0].float()

    @torch.no_grad()
    def finish(
        self, logits: Tensor, shape: Sequence[int], size: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Of one frame's logits `(N, h, w)`, the probability at the video's size in 1/255, and the best class.

        Args:
            logits: `(N, h, w)`.
            shape: of the frame as the model sees it, pixels; the preprocessor pads it.
            size: of the video, (height, width) in pixels.
        """
        sample = AVSDataSample(metainfo={"img_shape": tuple(shape), "ori_shape": tuple(size)})
        padded = self.model.data_preprocessor.padded_size([torch.empty(*shape)])

        def at_size(part: Tensor) -> Tensor:
            return self.model.at_labels_size(part[None], padded, sample)[0]

        if len(logits) == 1:
            return quantised(at_size(logits)[0].sigmoid()), None
        background, best, value = at_size(logits[:1])[0], None, None
        for begin in range(1, len(logits), _CLASSES_AT_ONCE):
            top, place = at_size(logits[begin : begin + _CLASSES_AT_ONCE]).max(0)
            place = (place + begin).to(torch.uint8)
            if value is None or best is None:
                value, best = top, place
            else:
                best = torch.where(top > value, place, best)
                value = torch.maximum(value, top)
        assert value is not None and best is not None
        return quantised((value - background).sigmoid()), best.cpu().numpy()


def quantised(probability: Tensor) -> NDArray[np.uint8]:
    """Probabilities in 1/255, rounded so that one above 0.5 is at least 128 and one of 0.5 is not."""
    return (probability * 255 - 0.5).ceil().clamp(0, 255).to(torch.uint8).cpu().numpy()


def small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture of at most 180 lines."""
    height, width = picture.shape[:2]
    if height <= _SMALL_HEIGHT:
        return picture.copy()
    size = (max(1, round(width * _SMALL_HEIGHT / height)), _SMALL_HEIGHT)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
