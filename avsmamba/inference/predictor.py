"""Run a trained model on a video of any length, window by window."""

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
from avsmamba.inference.frame import SILENCE_DB, FramePrediction, Progress, check_threshold
from avsmamba.inference.prediction import Prediction
from avsmamba.inference.sources import ForwardAudioReader, name_of, open_source
from avsmamba.inference.windows import blended, first_window
from avsmamba.registry import TRANSFORMS
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError

_CLASSES_AT_ONCE = 8  # resized to the video's size together, to limit memory: there are 71 in AVSS
_THUMBNAIL_HEIGHT = 180  # of the pictures in a Prediction, pixels


@dataclass(slots=True)
class WindowFrame:
    """A frame in a window: the picture `(h, w, 3)`, and the model's input `frame`, `(3, H', W')` uint8."""

    index: int
    time: float
    picture: NDArray[np.uint8]
    frame: Tensor
    level: float = SILENCE_DB


def level_of(wave: NDArray[np.floating]) -> float:
    """Return the RMS of a sound in dB of full scale, at least -90."""
    power = float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0
    return max(SILENCE_DB, 10 * float(np.log10(max(power, 1e-30))))


def check_stream(fps: float, overlap: int | None, size: Sequence[int] | int | None, num_frames: int) -> int:
    """Check arguments of `Predictor.stream` and return the overlap, frames.

    Raises:
        ValueError: if one is out of its range.
    """
    if not 0 < fps <= 1000:
        raise ValueError(f"fps: expected a positive number of frames per second, got {fps}")
    if overlap is not None and not 0 <= overlap < num_frames:
        raise ValueError(f"overlap: expected 0 to {num_frames - 1} of a window of {num_frames} frames, got {overlap}")
    pair = [size] if isinstance(size, int) else list(size or [])
    if len(pair) > 2 or any(n < 32 for n in pair):
        raise ValueError(f"size: expected [height, width] or one number of at least 32 pixels, got {size}")
    return num_frames // 3 if overlap is None else overlap


@dataclass(eq=False, repr=False)
class Predictor:
    """A trained model that predicts videos, from `avsmamba.load_model`.

    Attributes:
        model: an `AVSSegmentor` in evaluation mode.
        cfg: its config.
        classes: names by class index, the background first; of one class `("sounding",)`.
        num_frames: T, frames in a clip of its training and in a window here.
        pipeline: configs of the transforms that a test applies to frames.
    """

    model: nn.Module
    cfg: Config
    classes: Sequence[str]
    num_frames: int
    pipeline: Sequence[dict[str, Any]] = ()

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of the model's config and weights at the time of the first call."""
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
        """Yield predictions frame by frame; buffers one window of frames, whatever the video's length.

        The model runs on windows of T frames, the last one moved back to end with the video; logits of frames in
        several windows are averaged with weights that decrease towards a window's edges. At 1 frame per second the
        model gets the sound of a window as of a clip of AVSBench (log-mel patches every 0.96 s); at another rate it
        gets for each frame the 0.975 s from its time on.

        Args:
            video: a path (a file, or a folder of pictures with a wav), an open `avsmamba.video.Video`, or
                `(frames (T, H, W, 3) uint8 RGB, waveform (samples[, channels]) or None, sample_rate in Hz)` with `fps`
                frames per second.
            fps: frames to predict per second; models are trained on 1.
            size: of the model's input, [height, width] or one number, pixels; default: the config's.
            overlap: frames that two windows share, less than T; default: T // 3.
            audio: 'real', 'silence', or the path of another sound (a wav, a video).
            first: index of the first frame; predictions do not depend on it.
            progress: called with the number of predicted frames and of all (None: unknown), first with 0.

        Raises:
            UserError: if a file cannot be read.
            ValueError: if an argument is out of its range.
        """
        overlap = check_stream(fps, overlap, size, self.num_frames)
        preprocess = self.transforms(size)
        with ExitStack() as stack:
            source = stack.enter_context(open_source(video, fps))
            sound = ForwardAudioReader(self.open_audio(stack, source, video, audio))
            duration = source.info.duration
            total = max(1, int(np.ceil(duration * fps - 1e-6))) if duration else None
            begin = first_window(first, self.num_frames, overlap)
            done = first

            def frames() -> Iterator[WindowFrame]:
                for k, (_, picture) in enumerate(source.sampled(fps, begin / fps), begin):
                    if k == begin and progress:
                        progress(done, total)
                    yield WindowFrame(k, k / fps, picture, preprocess(picture))

            def run(window: Sequence[WindowFrame]) -> Tensor:
                return self.run(window, sound, fps)

            for item, logits in blended(frames(), self.num_frames, overlap, run):
                if item.index < first:
                    continue
                probability, best = self.postprocess(logits, item.frame.shape[-2:], item.picture.shape[:2])
                yield FramePrediction(item.index, item.time, item.picture, probability, best, item.level)
                done = item.index + 1
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
        """Predict a whole video; keeps a byte per pixel and frame (two for several classes).

        Args as in `stream`; `threshold` of the masks can be changed later by `Prediction.threshold`.

        Raises:
            UserError: if a file cannot be read or has no picture.
            ValueError: if an argument is out of its range.
        """
        check_threshold(threshold)
        found, pictures = [], []
        for frame in self.stream(video, fps, size, overlap, audio, progress=progress):
            pictures.append(thumbnail(frame.picture))
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
        """Return the test's transforms of a frame, `(h, w, 3)` to `(3, H, W)`, resizing to `size` if it is set."""
        configs = [dict(c) for c in self.pipeline]
        if size is not None:
            pair = [size] if isinstance(size, int) else list(size)
            configs = [c for c in configs if c.get("type") != "Resize"]
            configs.append({"type": "Resize", "size": pair * 2 if len(pair) == 1 else pair})
        steps = [TRANSFORMS.build(c) for c in configs]

        def preprocess(picture: NDArray[np.uint8]) -> Tensor:
            clip = {"frames": tv_tensors.Video(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None])}
            for step in steps:
                clip = step(clip)
            return clip["frames"].as_subclass(Tensor)[0]

        return preprocess

    def open_audio(self, stack: ExitStack, source: Any, video: Any, audio: str | Path) -> Any:
        """Return the function that reads the sound, or None for silence."""
        if str(audio) == "silence":
            return None
        if str(audio) != "real":
            from avsmamba.video import open_sound

            return stack.enter_context(open_sound(audio)).read
        if not source.info.has_audio:
            warnings.warn(f"{name_of(video)}: has no sound track: the model gets silence", stacklevel=3)
            return None
        return source.sound

    @torch.no_grad()
    def run(self, window: Sequence[WindowFrame], sound: ForwardAudioReader, fps: float) -> Tensor:
        """Return logits `(n, N, h, w)` of a window of n frames, and set the `level` of each frame."""
        count, begin = len(window), round(window[0].time * SAMPLE_RATE)
        patch = round(SHORTEST * SAMPLE_RATE)
        if fps == 1:
            wave = sound.get(begin, count * SAMPLE_RATE)
            patches = fit_patches(log_mel_patches(wave, SAMPLE_RATE), count)
            heard = np.split(wave, count)
        else:
            starts = [round(item.time * SAMPLE_RATE) - begin for item in window]
            wave = sound.get(begin, starts[-1] + patch)
            heard = [wave[start : start + patch] for start in starts]
            patches = torch.cat([log_mel_patches(part, SAMPLE_RATE) for part in heard])
        for item, part in zip(window, heard, strict=True):
            item.level = level_of(part)
        data = {"frames": [torch.stack([item.frame for item in window])], "log_mel": [patches]}
        data = self.model.data_preprocessor(data)
        return self.model(data["frames"], data["log_mel"])[0].float()

    @torch.no_grad()
    def postprocess(
        self, logits: Tensor, shape: Sequence[int], size: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return `probability` and `best` of a `FramePrediction`.

        Args:
            logits: `(N, h, w)` of the frame.
            shape: of the model's input before padding, (height, width) in pixels.
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
    """Convert probabilities to 1/255; those above 0.5 become at least 128, others less."""
    return (probability * 255 - 0.5).ceil().clamp(0, 255).to(torch.uint8).cpu().numpy()


def thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce a picture to a height of at most 180 pixels."""
    height, width = picture.shape[:2]
    if height <= _THUMBNAIL_HEIGHT:
        return picture.copy()
    size = (max(1, round(width * _THUMBNAIL_HEIGHT / height)), _THUMBNAIL_HEIGHT)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
