"""`avsmamba predict`: write overlay, masks, masks.json and timeline of videos."""

import argparse
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from avsmamba.choices import PREDICTION_FORMATS as FORMATS
from avsmamba.inference.frame import Progress, check_threshold
from avsmamba.inference.load import load_model
from avsmamba.inference.outputs import Outputs, check_formats, output_folder
from avsmamba.inference.predictor import Predictor, check_stream
from avsmamba.inference.records import RECORDS, Records
from avsmamba.inference.sources import audio_file, open_source, stem_of
from avsmamba.utils import UserError, one_line


def run(args: argparse.Namespace) -> None:
    """Predict each video; an error in one does not stop the others, and makes the status 2."""
    check_formats(args.format)
    check_threshold(args.threshold)
    folders = folders_of(args.videos, Path(args.out))
    with one_line_warnings():
        predictor = load_model(args.model, args.checkpoint, args.device, args.cfg_options)
        check_stream(args.fps, args.overlap, args.size, predictor.num_frames)
        names = ("fps", "overlap", "size", "threshold", "audio", "require_audio", "resume")
        options = {"formats": args.format, **{name: getattr(args, name) for name in names}}
        finished = []
        for video, folder in zip(args.videos, folders, strict=True):
            try:
                with progress_bars(Path(video).name) as (progress, rendering):
                    predict_video(
                        predictor,
                        video,
                        folder,
                        **options,
                        progress=progress,
                        rendering=rendering,
                        keep_records=len(folders) > 1,
                    )
                finished.append(folder)
                print(f"{folder}: {', '.join(written(folder, args.format))}", flush=True)
            except UserError as error:
                if len(folders) == 1:
                    raise
                print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            except KeyboardInterrupt as stop:
                done = (folder / RECORDS).exists()
                kept = f"finished frames are in {folder}, --resume continues" if done else "no frame was finished"
                print(f"interrupted: {kept}", file=sys.stderr, flush=True)
                if isinstance(stop, Terminated):
                    sys.exit(128 + signal.SIGTERM)
                raise
    for folder in finished:
        (folder / RECORDS).unlink(missing_ok=True)
    if len(finished) < len(folders):
        failed = len(folders) - len(finished)
        print(f"{failed} of {len(folders)} videos could not be predicted", file=sys.stderr)
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
    rendering: Progress | None = None,
    keep_records: bool = False,
) -> Path:
    """Predict a video into a folder, in constant memory: `overlay.mp4`, `masks/`, `masks.json`, `timeline.png`.

    The overlay has the video's pictures at their times and the sound that the model got; a picture has the masks of the
    last predicted frame. Masks are 8-bit PNG files of the video's size in AVSBench's layout:
    `masks/{video}_{1, 2, ...}.png` of 0 and 255; with several classes `masks/labels_semantic/{0, 1, ...}.png` of class
    indices and their colours in `masks/labels_rgb/`. See `avsmamba.inference.records.ABOUT` for `masks.json`.

    The first pass predicts and appends a line per frame to `out/records.jsonl`, the second renders the files from these
    records and the video. After an interrupt (Ctrl-C, SIGTERM) of the first pass, the finished frames are rendered; a
    second interrupt, and one of the second pass, stop at once. `resume` continues from the records, also after the
    process was killed: masks, masks.json and timeline are then equal to the byte, and so are the overlay's pictures.
    After rendering, the records are removed; until then the files of an earlier run stay.

    Args:
        predictor: from `load_model`.
        video: a file, or a folder of pictures (`fps` per second) and a wav.
        out: the folder; is created if it does not exist.
        formats: some of 'overlay', 'masks', 'json', 'timeline'.
        fps: see `Predictor.stream`.
        overlap: frames; see `Predictor.stream`.
        size: pixels; see `Predictor.stream`.
        threshold: of the masks.
        audio: 'real', 'silence' or the path of another sound.
        require_audio: raise an error for a video without sound, instead of a warning.
        resume: continue an interrupted run in `out`, if there is one.
        progress: see `Predictor.stream`.
        rendering: called with the number of rendered frames and of all in the second pass.
        keep_records: keep `records.jsonl`, by which `resume` recognises a finished video.

    Returns:
        The folder.

    Raises:
        UserError: if the video cannot be read, a file cannot be written, or an interrupted run had other settings.
        ValueError: if an argument is out of its range.
        KeyboardInterrupt: after an interrupt, when the records are complete.
    """
    video, out = Path(video), Path(out)
    overlap = check_stream(fps, overlap, size, predictor.num_frames)
    check_formats(formats)
    check_threshold(threshold)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: expected an output folder, found a file")
    if video.resolve() == (out / "overlay.mp4").resolve():
        raise UserError(f"{video}: would be overwritten by its own overlay; set another folder by --out")
    with open_source(video, fps) as source:
        if require_audio and audio == "real" and not source.info.has_audio:
            raise UserError(f"{video}: has no sound that can be decoded, but --require-audio is set")
        settings = {
            "video": [video.name, *identity(video)],
            "model": predictor.fingerprint,
            "fps": fps,
            "overlap": overlap,
            "size": None if size is None else [size] if isinstance(size, int) else list(size),
            "threshold": threshold,
            "audio": str(audio),
            "format": sorted(set(formats)),
        }
        sound = audio_file(source, audio)
        outputs = Outputs(out, stem_of(video), source, sound, predictor.classes, fps, formats)
        with output_folder(out), terminable():
            records = Records(out / RECORDS, settings, resume)
            try:
                if not records.done:
                    for frame in predictor.stream(source, fps, size, overlap, audio, records.count, progress):
                        records.append(frame, threshold)
                    if not records.count:
                        raise UserError(f"{video}: has no picture that can be decoded")
                    records.mark("predicted")
                if records.done == "predicted":
                    outputs.render(records, rendering)
                    records.mark("rendered")
            except KeyboardInterrupt:
                if records.count and not records.done:
                    outputs.render(records, rendering)
                raise
            if not keep_records:
                records.path.unlink()
    return out


def identity(video: Path) -> list[int]:
    """Return a video's size in bytes, of a folder also its number of files, to detect a change."""
    if video.is_dir():
        files = [file for file in sorted(video.iterdir()) if file.is_file()]
        return [sum(file.stat().st_size for file in files), len(files)]
    return [video.stat().st_size]


def folders_of(videos: Sequence[str], out: Path) -> list[Path]:
    """Return the output folder of each video: `out`, or if there are several, a subfolder with a unique name."""
    if len(videos) == 1:
        return [out]
    names: list[str] = []
    for video in videos:
        stem = stem_of(video)
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}_{number}", number + 1
        names.append(name)
    return [out / name for name in names]


def written(folder: Path, formats: Sequence[str]) -> list[str]:
    """List the outputs that exist in a folder, for the terminal."""
    names = {"overlay": "overlay.mp4", "masks": "masks/", "json": "masks.json", "timeline": "timeline.png"}
    return [name for key, name in names.items() if key in formats and (folder / name).exists()]


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated at SIGTERM, unless it is ignored or this is not the main thread (only that can handle it)."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_bars(name: str) -> Iterator[tuple[Progress, Progress]]:
    """Show progress bars of the two passes on stderr; the second closes the first."""
    with ExitStack() as stack:

        def bar_of(text: str) -> Progress:
            bars: list[Any] = []

            def progress(done: int, total: int | None) -> None:
                if not bars:
                    stack.close()
                    bar = tqdm(total=total, initial=done, desc=text, unit="frame", file=sys.stderr, dynamic_ncols=True)
                    bars.append(stack.enter_context(bar))
                bars[0].update(done - bars[0].n)

            return progress

        yield bar_of(name), bar_of(f"{name}, rendering")


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each warning in one line on stderr, without its place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        tqdm.write(f"warning: {one_line(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
