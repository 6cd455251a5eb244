"""What is written of a video, part by part as it is predicted: overlay, masks, masks.json, timeline."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from avsmamba.apis.records import record_of, shares_of, write_masks_json
from avsmamba.apis.result import FORMATS, FramePrediction, Prediction
from avsmamba.apis.sources import ArraySource, Picture, Source, heard_file, name_of, open_source
from avsmamba.datasets.log_mel import SAMPLE_RATE
from avsmamba.datasets.palette import to_colours
from avsmamba.utils import UserError, atomic_write
from avsmamba.visualization.hook import write_png
from avsmamba.visualization.overlay import Overlay
from avsmamba.visualization.timeline import draw_timeline

PROGRESS = ".progress"  # folder of parts and of the note how far they reach, below the one that is written to
PART = 60.0  # s of video in a part
CLOSE = 1e-6  # s; times that are the same but for rounding


class Outputs:
    """The files of one video.

    What has been predicted lies in parts of a minute, `.progress/00000.mp4` and `.jsonl`, and `.progress/progress.json`
    says how many are whole: what is not told there is left from a run that was killed, and is made again.

    Args:
        folder: gets `overlay.mp4`, `masks/`, `masks.json`, `timeline.png`.
        name: of the video: what its masks are called by.
        source: its pictures and sizes.
        sound: a file whose sound the overlay has, or None.
        classes: names by index, the background first, or the one class.
        fps: predicted frames a second.
        threshold: of the masks.
        formats: some of 'overlay', 'masks', 'json', 'timeline'.
        settings: what must be the same for `resume`, by name.

    Raises:
        UserError: if a format is unknown or the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        source: Source,
        sound: str | Path | None,
        classes: Sequence[str],
        fps: float,
        threshold: float,
        formats: Sequence[str] = FORMATS,
        settings: Mapping[str, Any] | None = None,
    ):
        check_formats(formats)
        self.folder, self.name, self.source, self.sound = folder, name, source, sound
        self.classes, self.fps, self.threshold, self.formats = classes, fps, threshold, formats
        self.settings = json.loads(json.dumps(dict(settings or {}), default=str))
        self.size = (source.info.height, source.info.width)
        self.progress = folder / PROGRESS
        self.done, self.parts, self.drawn_all, self.finished = 0, 0, False, False
        self.made = [path for path in (folder, *folder.parents) if not path.exists()]
        self.part_begin = 0
        self.part = ExitStack()
        self.records: Any = None
        self.writer: Any = None
        self.pictures: Iterator[tuple[float, Picture]] | None = None
        self.waiting: tuple[float, Picture] | None = None
        self.drawn: Overlay | None = None

    def begin(self, resume: bool = False) -> int:
        """Make the folder ready; the frame to go on with.

        Raises:
            UserError: if it cannot be written to, or what is to be resumed was begun with other settings.
        """
        note = self.progress / "progress.json"
        if resume and note.is_file():
            state = read_note(note)
            check_settings(self.folder, state["settings"], self.settings)
            self.done, self.parts = state["done"], state["parts"]
            self.drawn_all, self.finished = state["drawn_all"], state["finished"]
            kept = {note.name, *(f.name for f in (*self.files(".mp4"), *self.files(".jsonl")))}
            for file in self.progress.iterdir():
                if file.name not in kept:
                    file.unlink()
        else:
            self.clear()
        self.part_begin = self.done
        try:
            self.progress.mkdir(parents=True, exist_ok=True)
            for pattern in (".overlay.*.mp4", ".masks.*.json", ".timeline.*.png", f"{PROGRESS}/.*", "masks/**/.*.png"):
                for file in self.folder.glob(pattern):
                    file.unlink()  # temporary files of a run that was killed
            self.save()
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to: {error.strerror}") from None
        return self.done

    def clear(self) -> None:
        """Remove what an earlier run left of what will be written."""
        shutil.rmtree(self.progress, ignore_errors=True)
        for kind, file in (("overlay", "overlay.mp4"), ("json", "masks.json"), ("timeline", "timeline.png")):
            if kind in self.formats:
                with suppress(OSError):
                    (self.folder / file).unlink()
        if "masks" in self.formats:
            for k in range(1 << 30):
                found = [path for path in self.mask_paths(k) if path.is_file()]
                for path in found:
                    path.unlink()
                if not found:
                    break

    def files(self, suffix: str) -> list[Path]:
        """The whole parts' files of a kind."""
        return [self.progress / f"{part:05d}{suffix}" for part in range(self.parts)]

    def save(self) -> None:
        """Note how far the parts reach."""
        state = {"done": self.done, "parts": self.parts, "drawn_all": self.drawn_all, "finished": self.finished}
        state["settings"] = self.settings
        with atomic_write(self.progress / "progress.json") as temporary:
            temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def mask_paths(self, index: int) -> list[Path]:
        """Where the mask of a frame stands, by AVSBench's layout; of several classes also its colours."""
        folder = self.folder / "masks"
        if len(self.classes) == 1:
            return [folder / f"{self.name}_{index + 1}.png"]
        return [folder / kind / f"{index}.png" for kind in ("labels_semantic", "labels_rgb")]

    def add(self, frame: FramePrediction) -> None:
        """Write a frame's mask, its record, and the pictures that are shown until the next frame."""
        if "masks" in self.formats:
            labels = frame.labels(self.threshold)
            if labels is None:
                write_png(self.mask_paths(frame.index)[0], frame.mask(self.threshold).astype(np.uint8) * 255)
            else:
                for path, image in zip(self.mask_paths(frame.index), (labels, to_colours(labels)), strict=True):
                    write_png(path, image)
        self.open_part()
        if self.records is not None:
            self.records.write(json.dumps(record_of(frame, self.threshold)) + "\n")
        if self.writer is not None:
            self.drawn = Overlay(frame.by_class(self.threshold), self.classes, self.size)
            self.draw_until((frame.index + 1) / self.fps)
        self.done = frame.index + 1
        if self.done - self.part_begin >= PART * self.fps:
            self.close_part()

    def open_part(self) -> None:
        """Open the next part's files unless they are open."""
        if self.records is None and ("json" in self.formats or "timeline" in self.formats):
            path = self.progress / f"{self.parts:05d}.jsonl"
            self.records = self.part.enter_context(path.open("w", encoding="utf-8"))
        if self.writer is None and "overlay" in self.formats:
            from avsmamba.video import VideoWriter

            path, (height, width) = self.progress / f"{self.parts:05d}.mp4", self.size
            self.writer = self.part.enter_context(VideoWriter(path, width, height, self.source.info.frame_rate))

    def close_part(self) -> None:
        """End the open part and note it."""
        if self.done == self.part_begin and self.writer is None:
            return
        self.part.close()
        self.records = self.writer = None
        self.parts, self.part_begin = self.parts + 1, self.done
        self.save()

    def draw_until(self, end: float) -> None:
        """Write the pictures before `end`, s, with what is drawn now."""
        if self.pictures is None:
            self.pictures = self.source.frames(self.part_begin / self.fps)
            self.waiting = next(self.pictures, None)
        while self.waiting is not None and self.waiting[0] < end - CLOSE:
            time, picture = self.waiting
            self.writer.write(picture if self.drawn is None else self.drawn.draw(picture), time)
            self.waiting = next(self.pictures, None)

    def finish(self, complete: bool, keep_note: bool = False) -> None:
        """Write what is made of the whole, or of what there is after an interrupt.

        Args:
            complete: all has been predicted: pictures behind the last frame are written too, and the parts go.
            keep_note: leave the note that this video is finished, for a run of several.
        """
        if complete and "overlay" in self.formats and not self.drawn_all:
            self.open_part()
            self.draw_until(float("inf"))
            self.drawn_all = True
        self.close_part()
        parts = [file for file in self.files(".mp4") if file.is_file()]
        if "overlay" in self.formats and parts:
            from avsmamba.video import join

            join(parts, self.folder / "overlay.mp4", self.sound, None if complete else self.done / self.fps)
        records = self.files(".jsonl")
        if self.done and "json" in self.formats:
            path = self.folder / "masks.json"
            write_masks_json(path, records, self.name, self.size, self.fps, self.classes)
        if self.done and "timeline" in self.formats:
            times, levels, shares = shares_of(records, self.size[0] * self.size[1])
            draw_timeline(self.folder / "timeline.png", times, levels, shares, self.classes, self.fps, title=self.name)
        if complete:
            self.finished = True
            self.save()
            for file in (*self.files(".mp4"), *records):
                file.unlink(missing_ok=True)
            if not keep_note:
                self.remove_progress()

    def abandon(self) -> None:
        """Close what is open after an error; of a video of which nothing is done, nothing stays."""
        with suppress(Exception):
            self.part.__exit__(RuntimeError, RuntimeError(), None)
        if not self.done:
            self.remove_progress()
            for folder in (self.folder / "masks", *self.made):
                with suppress(OSError):
                    folder.rmdir()

    def remove_progress(self) -> None:
        """Remove the parts and the note."""
        shutil.rmtree(self.progress, ignore_errors=True)


def check_formats(formats: Sequence[str]) -> None:
    """Raise a UserError that names an unknown format."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UserError(f"--format: expected some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")


def read_note(path: Path) -> dict[str, Any]:
    """What `progress.json` says.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return {key: state[key] for key in ("done", "parts", "drawn_all", "finished", "settings")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: cannot be read; leave --resume out to start over") from None


def check_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a UserError that names the first setting in which a run differs from the one that it is to go on with."""
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            old, new = (str(values.get(key))[:60] for values in (before, now))
            raise UserError(
                f"{folder}: was begun with {key} {old}, now it is {new}: --resume needs the same, without it all is "
                "predicted anew"
            )


def save_prediction(prediction: Prediction, folder: Path, formats: Sequence[str]) -> Path:
    """What `Prediction.save` does."""
    with open_source(prediction.source, prediction.fps) as source, ExitStack() as stack:
        outputs = Outputs(
            folder,
            Path(name_of(prediction.source)).stem,
            source,
            heard_file(source, prediction.audio),
            prediction.classes,
            prediction.fps,
            prediction.cutoff,
            formats,
        )
        stack.callback(outputs.abandon)
        outputs.begin()
        stack.callback(outputs.remove_progress)
        if isinstance(source, ArraySource) and source.info.has_audio and str(prediction.audio) == "real":
            import soundfile

            outputs.sound = outputs.progress / "sound.wav"
            soundfile.write(outputs.sound, source.wave, SAMPLE_RATE)
        for frame in prediction.frames():
            outputs.add(frame)
        outputs.finish(True)
    return folder
