"""`avsmamba predict`: videos in; overlay, masks, masks.json and timeline out."""

import argparse
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from avsmamba.apis.inference import DEFAULT_MODEL, load_model
from avsmamba.apis.outputs import PROGRESS, Outputs, check_formats
from avsmamba.apis.predictor import Predictor, Progress, check_stream
from avsmamba.apis.result import FORMATS, check_threshold
from avsmamba.apis.sources import heard_file, open_source
from avsmamba.utils import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `avsmamba predict`."""
    parser.description = (
        "Segment what sounds in videos: mp4, mkv, webm, mov, avi, or a folder of pictures and a wav. For each video: "
        "overlay.mp4, masks/, masks.json, timeline.png."
    )
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a file, or a folder of png or jpg pictures and a wav"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="CONFIG|NAME",
        help="config, or a shipped model (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="weights; needed with a config")
    parser.add_argument(
        "--out", default="predictions", metavar="DIR", help="gets the files, of several videos in a folder each "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=list(FORMATS), help="default: all")
    parser.add_argument(
        "--fps", type=float, default=1.0, help="frames to predict a second; models are trained on 1 (default: 1)"
    )
    parser.add_argument("--overlap", type=int, metavar="N", help="frames that windows share (default: a third of one)")
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="what the model sees, pixels: N, or height and width "
        "(default: the config's)",
    )  # fmt: skip
    parser.add_argument("--threshold", type=float, default=0.5, help="probability of a mask (default: %(default)s)")
    parser.add_argument(
        "--audio", default="real", metavar="real|silence|FILE", help="what the model hears instead of the video's sound"
    )
    parser.add_argument("--require-audio", action="store_true", help="a video without sound is an error")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run with these options ended")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")


def run(args: argparse.Namespace) -> None:
    """Predict each video; a broken one does not stop the others, and makes the status 2."""
    check_formats(args.format)
    check_threshold(args.threshold)
    folders = folders_of(args.videos, Path(args.out))
    with one_line_warnings():
        predictor = load_model(args.model, args.checkpoint, args.device, args.cfg_options)
        check_stream(args.fps, args.overlap, args.size, predictor.num_frames)
        failed = 0
        for video, folder in zip(args.videos, folders, strict=True):
            try:
                with progress_bar(Path(video).name) as progress:
                    predict_video(
                        predictor,
                        video,
                        folder,
                        formats=args.format,
                        fps=args.fps,
                        overlap=args.overlap,
                        size=args.size,
                        threshold=args.threshold,
                        audio=args.audio,
                        require_audio=args.require_audio,
                        resume=args.resume,
                        progress=progress,
                        keep_note=len(args.videos) > 1,
                    )
                print(f"{folder}: {', '.join(written(folder, args.format))}", flush=True)
            except UserError as error:
                if len(args.videos) == 1:
                    raise
                failed += 1
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            except KeyboardInterrupt as stop:
                kept = (
                    f"what was done is in {folder}, --resume goes on"
                    if (folder / PROGRESS).exists()
                    else "no frame was done"
                )
                print(f"interrupted: {kept}", file=sys.stderr, flush=True)
                if isinstance(stop, Terminated):
                    sys.exit(128 + signal.SIGTERM)
                raise
    for folder in folders:
        note = folder / PROGRESS / "progress.json"
        if note.is_file():
            note.unlink()
            note.parent.rmdir()
    if failed:
        print(f"{failed} of {len(args.videos)} videos could not be predicted", file=sys.stderr)
        sys.exit(2)


def predict_video(
    predictor: Predictor,
    video: str | Path,
    out: str | Path,
    formats: Sequence[str] = FORMATS,
    fps: float = 1.0,
    overlap: int | None = None,
    size: Sequence[int] | int | None = None,
    threshold: float = 0.5,
    audio: str | Path = "real",
    require_audio: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    keep_note: bool = False,
) -> Path:
    """Predict a video into a folder, in constant memory: `overlay.mp4`, `masks/`, `masks.json`, `timeline.png`.

    The overlay has the video's pictures at their times and the sound that the model heard; masks are carried from a
    predicted frame to the next. Masks are 8-bit PNG files of the video's size in AVSBench's layout:
    `masks/{video}_{1, 2, ...}.png` of 0 and 255; of several classes `masks/labels_semantic/{0, 1, ...}.png` of class
    indices and their colours in `masks/labels_rgb/`. See `avsmamba.apis.records.ABOUT` for `masks.json`.

    An interrupt (Ctrl-C, SIGTERM) leaves all of them, of what was done, and a folder `.progress` from which `resume`
    goes on. A process that was killed leaves that folder, not more than a minute of the video behind.

    Args:
        predictor: from `load_model`.
        video: a file, or a folder of pictures (`fps` a second) and a wav.
        out: the folder; made where it is missing.
        formats: some of 'overlay', 'masks', 'json', 'timeline'.
        fps: as in `Predictor.stream`, as the following three.
        overlap: frames.
        size: pixels.
        threshold: of the masks.
        audio: 'real', 'silence' or the path of another sound.
        require_audio: a video without sound is an error; without it there is a warning.
        resume: go on with what an interrupted run left in `out`; where there is nothing, start.
        progress: see `Predictor.stream`.
        keep_note: leave a note in `out/.progress` that this video is finished, which `resume` heeds.

    Returns:
        The folder.

    Raises:
        UserError: if the video cannot be read, a file cannot be written, or an interrupted run had other settings.
        ValueError: if an argument does not fit.
        KeyboardInterrupt: after an interrupt, when all is in order.
    """
    video, out = Path(video), Path(out)
    overlap = check_stream(fps, overlap, size, predictor.num_frames)
    check_threshold(threshold)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected a folder to write to, found a file")
    if video.resolve() == (out / "overlay.mp4").resolve():
        raise UserError(f"{video}: would be overwritten by its own overlay; name another folder by --out")
    with open_source(video, fps) as source:
        if require_audio and audio == "real" and not source.info.has_audio:
            raise UserError(f"{video}: has no sound that can be decoded, which --require-audio asks for")
        settings = {
            "video": [video.name, *identity(video)],
            "model": predictor.fingerprint(),
            "fps": fps,
            "overlap": overlap,
            "size": None if size is None else [size] if isinstance(size, int) else list(size),
            "threshold": threshold,
            "audio": str(audio),
            "format": sorted(set(formats)),
        }
        name, sound = video.resolve().stem, heard_file(source, audio)
        outputs = Outputs(out, name, source, sound, predictor.classes, fps, threshold, formats, settings)
        first = outputs.begin(resume)
        if outputs.finished:
            return out
        with StopSignals() as signals:
            try:
                stream = predictor.stream(source, fps, size, overlap, audio, first, progress)
                with closing(stream):  # type: ignore[type-var]
                    for frame in stream:
                        with signals.held():
                            outputs.add(frame)
                if not outputs.done:
                    raise UserError(f"{video}: has no picture that can be decoded")
                outputs.finish(True, keep_note)
            except KeyboardInterrupt:
                if outputs.done:
                    outputs.finish(False)
                outputs.abandon()
                raise
            except OSError as error:
                outputs.abandon()
                raise UserError(f"{error.filename or out}: cannot be read or written: {error.strerror}") from None
            except BaseException:
                outputs.abandon()
                raise
    return out


def identity(video: Path) -> list[int]:
    """What tells that a video is still the same: its size in bytes, of a folder also its number of files."""
    if video.is_dir():
        files = [file for file in sorted(video.iterdir()) if file.is_file()]
        return [sum(file.stat().st_size for file in files), len(files)]
    return [video.stat().st_size]


def folders_of(videos: Sequence[str], out: Path) -> list[Path]:
    """Where each video's files go: of several a folder each, by its name; the same names are numbered."""
    if len(videos) == 1:
        return [out]
    names: list[str] = []
    for video in videos:
        stem = Path(video).resolve().stem
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return [out / name for name in names]


def written(folder: Path, formats: Sequence[str]) -> list[str]:
    """What stands in a folder now, for the terminal."""
    names = {"overlay": "overlay.mp4", "masks": "masks/", "json": "masks.json", "timeline": "timeline.png"}
    return [name for key, name in names.items() if key in formats and (folder / name).exists()]


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


class StopSignals:
    """While it is entered, Ctrl-C and SIGTERM raise KeyboardInterrupt and Terminated, but wait while they are held.

    In a thread other than the main one signals cannot be caught, and nothing is changed.
    """

    def __init__(self) -> None:
        self.holding = False
        self.pending: type[KeyboardInterrupt] | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, _: FrameType | None) -> None:
        """What a signal does."""
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if not self.holding:
            raise kind
        self.pending = kind

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait until the block has ended."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.pending is not None:
            kind, self.pending = self.pending, None
            raise kind


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A bar on stderr, with the time that is left; it appears when the first picture has been read."""
    bars: list[Any] = []

    def progress(done: int, total: int | None) -> None:
        if not bars:
            bars.append(tqdm(total=total, initial=done, desc=name, unit="frame", file=sys.stderr, dynamic_ncols=True))
        bars[0].update(done - bars[0].n)

    try:
        yield progress
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Warnings are a line each on stderr, without the place in the code, once for each text."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        tqdm.write(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
