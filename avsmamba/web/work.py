"""What the page asks for: a video is checked, a model runs on it, and on its pictures with another sound."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avsmamba.inference.load import load_model
from avsmamba.inference.prediction import Prediction
from avsmamba.inference.predictor import Predictor
from avsmamba.model_zoo.bundled import DEMO, find_model, shipped_models
from avsmamba.utils import UserError
from avsmamba.video import open_sound, open_video
from avsmamba.web.results import Comparison, Result, Run, Stills, count_pixels
from avsmamba.web.sessions import Session, Sessions, keep

Report = Callable[[int, int | None], None]
_MOST_BYTES = 2e9  # of one run's probabilities on the disk


class Limits(NamedTuple):
    """What is taken: files of `max_mb` MB of 2^20 bytes, videos of `max_seconds` seconds."""

    max_mb: float
    max_seconds: float


@dataclass
class Desk:
    """What all tabs share.

    Attributes:
        models: by the name that is shown: config or name, and checkpoint or None, for `load_model`.
        device: where models run.
        limits: what is taken.
        sessions: the tabs.
    """

    models: dict[str, tuple[str, str | None]]
    device: str
    limits: Limits
    sessions: Sessions
    _loaded: tuple[str, Predictor] | None = None

    def predictor(self, name: str) -> Predictor:
        """The model of this name; one is held at a time, and one caller may be here at a time.

        Raises:
            UserError: if there is none, or it cannot be loaded.
        """
        if self._loaded is None or self._loaded[0] != name:
            if name not in self.models:
                raise UserError(f"{name}: there is no such model; there are: {', '.join(self.models)}")
            self._loaded = None
            self._loaded = name, load_model(*self.models[name], device=self.device)
        return self._loaded[1]


def choices(model: str | None, checkpoint: str | None) -> dict[str, tuple[str, str | None]]:
    """The models to choose from: the one that the command names first, then those that are shipped or trained here.

    Raises:
        UserError: if there is none, or a checkpoint comes without its config.
    """
    if checkpoint and not model:
        raise UserError("--checkpoint: expected its config with it (--model CONFIG)")
    known: dict[str, tuple[str, str | None]] = {found.name: (found.name, None) for found in shipped_models()}
    try:
        find_model(DEMO)
        known[DEMO] = DEMO, None
    except UserError:
        pass  # `make demo` has not been run
    if model:
        name = Path(model).stem if checkpoint else model
        known = {name: (model, checkpoint), **{key: value for key, value in known.items() if key != name}}
    if not known:
        raise UserError("there is no model here: name one by --model CONFIG --checkpoint FILE")
    return known


def describe(desk: Desk, path: Path) -> str:
    """One line on a video that was sent.

    Raises:
        UserError: if it cannot be used: unreadable, too large or too long.
    """
    if not path.is_file():
        raise UserError(f"{path}: has been removed meanwhile; send it again")
    limits, size = desk.limits, path.stat().st_size / 2**20
    if size > limits.max_mb:
        raise UserError(f"{path}: is too large: {size:.1f} MB; this page takes up to {limits.max_mb:g} MB")
    with open_video(path) as video:
        info = video.info
    if info.duration > limits.max_seconds + 0.5:
        raise UserError(_too_long(path, f"{info.duration:.1f} s", limits))
    sound = f"sound at {info.sample_rate} Hz" if info.has_audio else "no sound: the model will hear silence"
    rate = f"{float(info.frame_rate):.3g} pictures a second"
    return f"{path.name}: {info.duration:.1f} s, {info.width} x {info.height}, {rate}, {sound}"


def _too_long(path: Path, seconds: str, limits: Limits) -> str:
    return f"{path}: is too long: {seconds}; this page takes up to {limits.max_seconds:g} s"


def analyse(desk: Desk, session: Session, upload: Path, model: str, fps: float, report: Report) -> Result:
    """Run a model on a video with its own sound; what an earlier run of the tab has left is removed.

    Args:
        desk: models and limits.
        session: the tab's; gets the result.
        upload: the video.
        model: its name on the page.
        fps: predicted frames a second.
        report: called with the number of frames done and of all.

    Raises:
        UserError: if the video or the model cannot be used.
        Gone: if the tab has been closed.
    """
    describe(desk, upload)
    predictor = desk.predictor(model)
    began = time.monotonic()
    folder = session.new_folder()
    try:
        source = keep(upload, folder / "source")
        stills = Stills(folder / "pictures")
        own = _run(predictor, source, fps, "real", folder / "own", desk.limits, report, stills)
        with open_video(source) as video:
            cut = video.info.duration - own.prediction.times[-1] > 1 / fps + 0.5
        note = f"{upload.name}: {len(stills)} pictures looked at by {model} in {time.monotonic() - began:.1f} s" + (
            f"; it is damaged after {own.prediction.times[-1]:.1f} s" if cut else ""
        )
        result = Result(folder, upload.name, model, note, stills, own)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    with session.drawing:
        before, session.result = session.result, result
    if before is not None:
        shutil.rmtree(before.folder, ignore_errors=True)
    return result


def compare(desk: Desk, session: Session, result: Result, sound: Path | None, report: Report) -> None:
    """Run the model once more on a result's pictures, with another sound.

    Args:
        desk: models and limits.
        session: the tab's.
        result: gets the comparison.
        sound: a sound file or a video with sound; None is silence.
        report: called with the number of frames done and of all.

    Raises:
        UserError: if the sound or the model cannot be used.
        Gone: if the tab has been closed.
    """
    session.check_open()
    own = result.own.prediction
    folder = result.folder / f"sound_{time.monotonic_ns()}"
    folder.mkdir()
    try:
        audio: Path | str = "silence"
        if sound is not None:
            open_sound(sound).close()
            audio = keep(sound, folder / "sound")
        run = _run(
            desk.predictor(result.model), own.source, own.fps, audio, folder, desk.limits, report, result.pictures
        )
        pairs = list(zip(own.probabilities, run.prediction.probabilities, strict=True))
        both, either = (np.stack([count_pixels(f(a, b)) for a, b in pairs]) for f in (np.minimum, np.maximum))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    with session.drawing:
        before, result.other = result.other, Comparison(sound.name if sound else "silence", run, both, either)
    if before is not None:
        shutil.rmtree(before.run.folder, ignore_errors=True)


def _run(
    predictor: Predictor,
    source: Path,
    fps: float,
    audio: Path | str,
    folder: Path,
    limits: Limits,
    report: Report,
    stills: Stills,
) -> Run:
    """One pass of the model; probabilities are written to `folder` as they come, pictures to `stills` if missing."""
    folder.mkdir(exist_ok=True)
    files = folder / "probability.raw", folder / "best.raw"
    times: list[float] = []
    levels: list[float] = []
    counts: list[NDArray[np.int64]] = []
    shape, several = (0, 0), False
    with ExitStack() as stack:
        out = [stack.enter_context(file.open("wb")) for file in files]
        for frame in predictor.stream(source, fps=fps, audio=audio, progress=report):
            shape, several = frame.probability.shape, frame.best is not None
            if frame.time > limits.max_seconds + 0.5:
                raise UserError(_too_long(source, f"more than {frame.time:.0f} s", limits))
            if (len(times) + 1) * frame.probability.size > _MOST_BYTES:
                raise UserError(f"{source}: is too large: choose fewer pictures a second, or send a smaller video")
            out[0].write(frame.probability.tobytes())
            if frame.best is not None:
                out[1].write(frame.best.tobytes())
            if frame.index >= len(stills):
                stills.append(frame.picture)
            times.append(frame.time)
            levels.append(frame.level)
            counts.append(count_pixels(frame.probability))
    if not times:
        raise UserError(f"{source}: has no picture that can be decoded")
    maps = [
        np.memmap(file, np.uint8, "r", shape=(len(times), *shape)) if several or i == 0 else None
        for i, file in enumerate(files)
    ]
    assert maps[0] is not None
    prediction = Prediction(
        times=np.array(times),
        probabilities=maps[0],
        best=maps[1],
        levels=np.array(levels),
        classes=predictor.classes,
        cutoff=0.5,
        fps=fps,
        pictures=stills,
        source=source,
        audio=audio,
    )
    return Run(folder, prediction, np.stack(counts))
