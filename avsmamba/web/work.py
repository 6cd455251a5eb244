"""What the page computes: checks of an upload, and runs of a model on a video with its own or another sound."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avsmamba.inference.load import load_model
from avsmamba.inference.prediction import Prediction
from avsmamba.inference.predictor import Predictor
from avsmamba.model_zoo.bundled import DEMO, find_model, shipped_models
from avsmamba.sounding_shapes.sample import make_sample
from avsmamba.utils import UserError
from avsmamba.video import open_sound, open_video
from avsmamba.web.results import Counts, Result, Run, count_pixels, frame_file, write_jpeg
from avsmamba.web.sessions import Session, Uploads, link, new_folder

Report = Callable[[int, int | None], None]  # gets the frames done and of all; an exception ends the run
Models = dict[str, tuple[str, str | None]]
_MOST_BYTES = 2e9  # of the probabilities of one run on disk


@dataclass
class AppState:
    """State shared by all tabs.

    Attributes:
        models: config or name, and checkpoint or None, by the name on the page.
        device: of the model.
        max_mb: largest file, MB of 2^20 bytes.
        max_seconds: longest video, s.
        root: folder of all files; Gradio stores uploads there and serves files from there only.
    """

    models: Models
    device: str
    max_mb: float
    max_seconds: float
    root: Path
    uploads: Uploads = field(default_factory=Uploads)
    _loaded: tuple[str, Predictor] | None = None
    _example: threading.Lock = field(default_factory=threading.Lock)

    def open_session(self) -> Session:
        """Return the session of a new tab."""
        return Session(self.root / "sessions", self.uploads)

    def predictor(self, name: str) -> Predictor:
        """Load a model, unless it is the last one used. Not thread-safe.

        Raises:
            UserError: if there is no such model, or it cannot be loaded.
        """
        if self._loaded is None or self._loaded[0] != name:
            if name not in self.models:
                raise UserError(f"{name}: there is no such model; there are: {', '.join(self.models)}")
            self._loaded = None
            self._loaded = name, load_model(*self.models[name], device=self.device)
        return self._loaded[1]

    def example(self) -> Path:
        """Return the clip of `avsmamba sample`, created by the first call (about 3 s)."""
        clip = self.root / "example" / "sample.mp4"
        with self._example:
            if not clip.is_file():
                make_sample(clip.parent)
                self.uploads.replace(None, clip)  # remains when the last tab releases it
        return clip


def find_models(model: str | None, checkpoint: str | None) -> Models:
    """Return the models to choose from: `model` first, then the bundled ones and that of `make demo`.

    Raises:
        UserError: if there is none, or a checkpoint comes without its config.
    """
    if checkpoint and not model:
        raise UserError("--checkpoint: expected its config with it (--model CONFIG)")
    known: Models = {found.name: (found.name, None) for found in shipped_models()}
    with contextlib.suppress(UserError):  # `make demo` was not run
        find_model(DEMO)
        known[DEMO] = DEMO, None
    if model:
        name = Path(model).stem if checkpoint else model
        known = {name: (model, checkpoint), **{key: value for key, value in known.items() if key != name}}
    if not known:
        raise UserError("there is no model here: name one by --model CONFIG --checkpoint FILE")
    return known


def describe(app: AppState, path: Path) -> str:
    """Return one line on an upload.

    Raises:
        UserError: if it was deleted, is unreadable, too large or too long.
    """
    if not path.is_file():
        raise UserError(f"{path}: has been removed meanwhile; send it again")
    size = path.stat().st_size / 2**20
    if size > app.max_mb:
        raise UserError(f"{path}: is too large: {size:.1f} MB; this page takes up to {app.max_mb:g} MB")
    with open_video(path) as video:
        info = video.info
    _check_length(path, info.duration, app, f"{info.duration:.1f} s")
    sound = f"sound at {info.sample_rate} Hz" if info.has_audio else "no sound: the model will hear silence"
    rate = f"{float(info.frame_rate):.3g} pictures a second"
    return f"{path.name}: {info.duration:.1f} s, {info.width} x {info.height}, {rate}, {sound}"


def _check_length(path: Path, seconds: float, app: AppState, words: str) -> None:
    if seconds > app.max_seconds + 0.5:
        raise UserError(f"{path}: is too long: {words}; this page takes up to {app.max_seconds:g} s")


def analyse(app: AppState, session: Session, upload: Path, model: str, fps: float, report: Report) -> Result:
    """Run a model on a video with its own sound at `fps` frames a second; the result replaces the session's last one.

    Raises:
        UserError: if the video or the model cannot be used.
        SessionClosed: if the tab was closed.
    """
    describe(app, upload)
    predictor = app.predictor(model)
    start = time.monotonic()
    session.check_open()
    with new_folder(session.folder / f"run_{time.monotonic_ns()}") as folder:
        source = link(upload, folder / "source")
        (folder / "frames").mkdir()
        own = _run(app, predictor, source, fps, "real", folder / "own", report)
        end = own.prediction.times[-1]
        note = f"{upload.name}: {len(own.counts)} pictures looked at by {model} in {time.monotonic() - start:.1f} s"
        with open_video(source) as video:
            if video.info.duration - end > 1 / fps + 0.5:
                note += f"; it is damaged after {end:.1f} s"
        result = Result(folder, upload.name, model, note, own)
    with session.drawing:
        before, session.result = session.result, result
    if before is not None:
        shutil.rmtree(before.folder, ignore_errors=True)
    return result


def compare(app: AppState, session: Session, result: Result, sound: Path | None, report: Report) -> None:
    """Run the model on a result's video with another sound, None for silence; the run becomes `result.other`.

    Raises:
        UserError: if the sound or the model cannot be used.
        SessionClosed: if the tab was closed.
    """
    session.check_open()
    own = result.own.prediction
    with new_folder(result.folder / f"sound_{time.monotonic_ns()}") as folder:
        audio: Path | str = "silence"
        if sound is not None:
            open_sound(sound).close()
            audio = link(sound, folder / "sound")
        run = _run(app, app.predictor(result.model), own.source, own.fps, audio, folder / "other", report)
        run.overlap = np.zeros((2, 256), np.int64)
        for pair in zip(own.probabilities, run.prediction.probabilities, strict=True):
            run.overlap += [count_pixels(np.minimum(*pair)), count_pixels(np.maximum(*pair))]
    with session.drawing:
        before, result.other = result.other, run
    if before is not None:
        shutil.rmtree(before.folder.parent, ignore_errors=True)


def _run(
    app: AppState, predictor: Predictor, source: Path, fps: float, audio: Path | str, folder: Path, report: Report
) -> Run:
    """Write the probabilities to `folder`, and the frames of the first run beside it."""
    folder.mkdir()
    times: list[float] = []
    levels: list[float] = []
    counts: list[Counts] = []
    with (folder / "probability").open("wb") as probabilities, (folder / "best").open("wb") as best:
        for frame in predictor.stream(source, fps=fps, audio=audio, progress=report):
            _check_length(source, frame.time, app, f"more than {frame.time:.0f} s")
            if (len(times) + 1) * frame.probability.size > _MOST_BYTES:
                raise UserError(f"{source}: is too large: choose fewer pictures a second, or send a smaller video")
            probabilities.write(frame.probability.tobytes())
            if frame.best is not None:
                best.write(frame.best.tobytes())
            if audio == "real":
                write_jpeg(frame_file(folder.parent, frame.index), frame.picture)
            times.append(frame.time)
            levels.append(frame.level)
            counts.append(count_pixels(frame.probability))
    if not times:
        raise UserError(f"{source}: has no picture that can be decoded")
    shape = (len(times), *frame.probability.shape)
    prediction = Prediction(
        times=np.array(times),
        probabilities=np.memmap(folder / "probability", np.uint8, "r", shape=shape),
        best=None if frame.best is None else np.memmap(folder / "best", np.uint8, "r", shape=shape),
        levels=np.array(levels),
        classes=predictor.classes,
        cutoff=0.5,
        fps=fps,
        pictures=[np.zeros((1, 1, 3), np.uint8)] * len(times),  # for `Prediction.plot`, which the page does not use
        source=source,
        audio=audio,
    )
    name = {"real": "its own sound", "silence": "silence"}.get(str(audio)) or Path(audio).name
    return Run(name, folder, prediction, np.stack(counts))
