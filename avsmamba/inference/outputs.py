"""Second pass over a video: render overlay, masks, masks.json and timeline from its records and pictures."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from avsmamba.choices import PREDICTION_FORMATS as FORMATS
from avsmamba.datasets.palette import to_colours
from avsmamba.inference.frame import Progress
from avsmamba.inference.records import Record, Records, masks_of, shares_of, write_masks_json
from avsmamba.inference.sources import Source
from avsmamba.utils import UserError
from avsmamba.visualization.hook import write_png
from avsmamba.visualization.overlay import Overlay
from avsmamba.visualization.timeline import draw_timeline

WORK = ".rendering"  # folder for files before they are complete
CLOSE = 1e-6  # s; times that differ less are equal


@dataclass(frozen=True)
class Outputs:
    """The files of one video, rendered from its records.

    Args:
        folder: for `overlay.mp4`, `masks/`, `masks.json`, `timeline.png`.
        name: of the video and of its masks.
        source: the open video.
        sound: file with the sound of the overlay, or None.
        classes: names by index, the background first, or the one class.
        fps: predicted frames a second.
        formats: some of 'overlay', 'masks', 'json', 'timeline'.
    """

    folder: Path
    name: str
    source: Source
    sound: str | Path | None
    classes: Sequence[str]
    fps: float
    formats: Sequence[str] = FORMATS

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the masks, pixels."""
        return self.source.info.height, self.source.info.width

    def mask_paths(self, folder: Path, index: int) -> list[Path]:
        """Return the paths of a frame's mask in AVSBench's layout; with several classes also that of its colours."""
        if len(self.classes) == 1:
            return [folder / "masks" / f"{self.name}_{index + 1}.png"]
        return [folder / "masks" / kind / f"{index}.png" for kind in ("labels_semantic", "labels_rgb")]

    def render(self, records: Records, progress: Progress | None = None) -> None:
        """Write all files to `.rendering`, then replace those of an earlier run.

        Args:
            records: of the video, or of its part before an interrupt.
            progress: called with the number of rendered frames and of all while the overlay is written.

        Raises:
            UserError, OSError: if a file cannot be written.
        """
        work = self.folder / WORK
        shutil.rmtree(work, ignore_errors=True)
        try:
            if "masks" in self.formats:
                for record in records:
                    self.write_mask(work, record)
            if "overlay" in self.formats:
                self.write_overlay(work, records, progress)
            if "json" in self.formats:
                write_masks_json(work / "masks.json", records, self.name, self.size, self.fps, list(self.classes))
            if "timeline" in self.formats:
                times, levels, shares = shares_of(records, self.size[0] * self.size[1])
                draw_timeline(work / "timeline.png", times, levels, shares, self.classes, self.fps, title=self.name)
            for index in count(records.count) if "masks" in self.formats else ():
                old = [path for path in self.mask_paths(self.folder, index) if path.is_file()]
                if not old:
                    break
                for path in old:
                    path.unlink()
            for file in [path for path in work.rglob("*") if path.is_file()]:
                target = self.folder / file.relative_to(work)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def write_mask(self, folder: Path, record: Record) -> None:
        """Write a frame's mask of 0 and 255; with several classes their indices, and their colours."""
        labels = np.zeros(self.size, np.uint8)
        for index, mask in masks_of(record, self.size).items():
            labels[mask] = index
        images = [labels * np.uint8(255)] if len(self.classes) == 1 else [labels, to_colours(labels)]
        for path, image in zip(self.mask_paths(folder, record["index"]), images, strict=True):
            write_png(path, image)

    def write_overlay(self, folder: Path, records: Records, progress: Progress | None) -> None:
        """Write the video's pictures with the masks of the last predicted frame, and the sound."""
        from avsmamba.video import VideoWriter, join

        pictures, (height, width) = folder / "pictures.mp4", self.size
        frames, done, drawn = iter(records), 0, None
        with VideoWriter(pictures, width, height, self.source.info.frame_rate) as writer:
            for time, picture in self.source.frames():
                if not records.done and time >= records.count / self.fps - CLOSE:
                    break
                while done < records.count and time >= done / self.fps - CLOSE:
                    drawn = Overlay(masks_of(next(frames), self.size), self.classes, self.size)
                    done += 1
                    if progress:
                        progress(done, records.count)
                writer.write(picture if drawn is None else drawn.draw(picture), time)
        join(pictures, folder / "overlay.mp4", self.sound)
        pictures.unlink()


def check_formats(formats: Sequence[str]) -> None:
    """Raise a UserError that names an unknown format."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UserError(f"--format: expected some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Create a folder; after an error remove it again if it is empty. Convert an OSError to a UserError."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in created:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or folder}: cannot be written to: {error.strerror or error}") from None
        raise
