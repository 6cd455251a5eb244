"""`avsmamba import`: read videos with labels, and write a data set or files of an annotation tool."""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from avsmamba.choices import IMPORT_TARGETS, NO_AUDIO
from avsmamba.datasets.avss import read_classes
from avsmamba.datasets.clip_table import SPLITS
from avsmamba.datasets.readers import attempt
from avsmamba.engine.check_data import check_data_sets
from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, POSITIVE, RATE, limits, one_of
from avsmamba.own_data.clips import Clip, Timeline, cut, open_labelled, read_clips, read_timeline
from avsmamba.own_data.cvat import write_cvat
from avsmamba.own_data.label_studio import write_tasks
from avsmamba.own_data.labelled import LabelledVideo
from avsmamba.own_data.layout import PARTS, SUBSETS, Layout, write_classes
from avsmamba.own_data.preview import PAGE, write_preview
from avsmamba.own_data.sources import Reader
from avsmamba.own_data.splits import split_by_ratio, split_by_table
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError

BACKGROUND = "background"
MAX_CLASSES = 255  # beside the background: masks are 8-bit
DATA_SETS = {"s4": "AVSBenchS4", "ms3": "AVSBenchMS3", "avss": "AVSBenchAVSS"}


class Importer:
    """Conversion of one source of labels.

    Args:
        source: labels, see `Reader.read`.
        videos: folder with the videos, or the one video.
        to: 's4', 'ms3' or 'avss' (AVSBench's layouts), 'cvat' or 'label-studio'.
        out: folder for `Single-source/`, `Multi-sources/` or `AVSS/`; with an annotation tool, the folder of its files.
        classes: JSON file with the index of each class, the background 0; None: the categories of the labels.
        seconds: of a clip; for AVSS 5 or 10.
        ratio: shares of train, val and test.
        seed: of the split by ratio.
        split_file: table with the split of each video, instead of a ratio.
        no_audio: videos without sound are an 'error', or 'skip' them, or write 'silence'.
        frame_rate: pictures per second of folders of pictures.
        by_frame: whether PNG masks are numbered by frame, not second.
        offset: time of the labelled frame within its second, s.
        shorter: shorter side of larger frames and masks, pixels; 0 keeps their size.
        preview: number of clips on the page `preview.html`; 0 writes none.
        progress: show progress on stderr.

    Raises:
        ValueError: if a number is out of range.
        UserError: if an argument is unknown, or the target exists already.
    """

    @limits(
        to=one_of(IMPORT_TARGETS),
        no_audio=one_of(NO_AUDIO),
        seconds=AT_LEAST_1,
        seed=AT_LEAST_0,
        offset=RATE,
        shorter=AT_LEAST_0,
        preview=AT_LEAST_0,
        frame_rate=POSITIVE,
    )
    def __init__(
        self,
        source: str | Path,
        videos: str | Path,
        to: str,
        out: str | Path,
        classes: str | Path | None = None,
        seconds: int = 5,
        ratio: Sequence[float] = (0.7, 0.1, 0.2),
        seed: int = 0,
        split_file: str | Path | None = None,
        no_audio: str = "error",
        frame_rate: float | None = None,
        by_frame: bool = False,
        offset: float = 0.0,
        shorter: int = 0,
        preview: int = 8,
        progress: bool = False,
    ):
        if to == "avss" and seconds not in PARTS:
            raise UserError(f"--seconds: a clip of AVSS has {' or '.join(map(str, PARTS))}, got {seconds}")
        self.source, self.videos, self.to = Path(source), Path(videos), to
        self.target = Path(out) / SUBSETS[to][0] if to in SUBSETS else Path(out)
        self.classes = None if classes is None else read_classes(Path(classes))
        self.seconds, self.ratio, self.seed, self.split_file = seconds, ratio, seed, split_file
        self.no_audio, self.frame_rate, self.by_frame, self.offset = no_audio, frame_rate, by_frame, offset
        self.shorter, self.preview, self.progress = shorter, preview, progress
        self.splits: list[str] = []
        if self.target.exists():
            raise UserError(f"{self.target}: exists already; remove it first, or choose another folder")

    def run(self) -> int:
        """Convert, check the data set, and print what was written.

        Returns:
            The number of faults that `avsmamba check-data` finds in the result.

        Raises:
            UserError: if anything does not fit; then nothing is written. Several faults are printed on stderr before.
        """
        faults: list[str] = []
        with ExitStack() as stack:
            reader = Reader(self.videos, stack, self.classes, self.by_frame, self.frame_rate)
            videos = reader.read(self.source, faults)
            repeated = [name for name, count in Counter(v.name for v in videos).items() if count > 1]
            faults += [f"{self.source}: has labels of several videos {name!r}" for name in repeated]
            timelines = self._each(videos, read_timeline, faults)
            self._stop(faults)
            if not timelines:
                raise UserError(f"{self.source}: has no labelled video")
            with new_folder(self.target) as folder:
                if self.to in SUBSETS:
                    count = self._write_layout(folder, self._with_sound(timelines), faults)
                else:
                    count = self._write_labels(folder, timelines, faults)
        print(f"{count} {'clips' if self.to in SUBSETS else 'labelled frames'} in {self.target}")
        if self.to not in SUBSETS:
            return 0
        if self.preview:
            print(f"preview: {self.target / PAGE}")
        return check_data_sets(list(self._configs(self.target).values()), str(self.target))

    def _write_layout(self, folder: Path, timelines: Sequence[Timeline], faults: list[str]) -> int:
        """Write all clips, the table and the preview; return the number of clips."""
        layout = Layout(folder, self.to, self._class_names(timelines), self.shorter)
        by_video = self._cut(timelines, faults)
        self._stop(faults)
        clips = [clip for found in by_video for clip in found]
        if not clips:
            raise UserError(f"{self.source}: no video has {self.seconds} labelled seconds in a row")
        with tqdm(total=len(clips), unit="clip", disable=not self.progress, dynamic_ncols=True) as bar:
            for found in by_video:
                for content in read_clips(found, self._labelled(found[0].split), faults) if found else ():
                    attempt(faults, layout.write, content)
                    bar.update()
        self._stop(faults)
        layout.write_table()
        self.splits = [split for split in SPLITS if any(clip.split == split for clip in clips)]
        if self.preview:
            datasets = {split: DATASETS.build(config) for split, config in self._configs(folder).items()}
            write_preview(layout, datasets, str(self.source), self.preview)
        return len(clips)

    def _write_labels(self, folder: Path, timelines: Sequence[Timeline], faults: list[str]) -> int:
        """Write the labels of all videos for an annotation tool, and the classes; return the number of labelled frames.

        Labels that come back from the tool have the same class indices with `--classes label2idx.json`.
        """
        classes = self._class_names(timelines)
        write_classes(folder, classes)
        names = classes[1:]
        if self.to == "cvat":
            for t in timelines:
                path = folder / f"{t.video.name}.xml"
                attempt(faults, write_cvat, path, t.video, t.size, len(t.times), t.numbers.tolist(), names)
        else:
            entries = [(t.video, t.size, write_pictures(folder, t), t.at.tolist()) for t in timelines]
            attempt(faults, write_tasks, folder, entries, names)
        self._stop(faults)
        return sum(len(t.numbers) for t in timelines)

    def _cut(self, timelines: Sequence[Timeline], faults: list[str]) -> list[list[Clip]]:
        """Return the clips of each video; print the videos that have none."""
        names = [t.video.name for t in timelines]
        if self.split_file is not None:
            places = split_by_table(names, Path(self.split_file), faults)
        else:
            places = split_by_ratio(names, self.ratio, self.seed)
        found = []
        for timeline in timelines:
            place = places.get(timeline.video.name)
            if place is None:
                continue
            clips = cut(timeline, place.split, self.seconds, self.offset, self._labelled(place.split))
            found.append([replace(clip, category=place.category) for clip in clips])
            if not found[-1]:
                print(f"{timeline.video.where}: gives no clip: fewer than {self.seconds} labelled seconds in a row")
        return found

    def _labelled(self, split: str) -> int:
        """Return how many of a clip's first seconds must be labelled."""
        return 1 if (self.to, split) == ("s4", "train") else self.seconds

    def _with_sound(self, timelines: Sequence[Timeline]) -> list[Timeline]:
        """Apply `no_audio` to the videos without sound."""
        silent = [str(t.video.path) for t in timelines if not t.has_audio]
        if silent and self.no_audio == "error":
            count = f"{len(silent)} video{'s' if len(silent) > 1 else ''}"
            raise UserError(f"{count} without sound: {', '.join(silent)} (--no-audio skip or silence)")
        if self.no_audio != "skip":
            return list(timelines)
        for path in silent:
            print(f"{path}: has no sound and is skipped")
        return [t for t in timelines if t.has_audio]

    def _class_names(self, timelines: Sequence[Timeline]) -> tuple[str, ...]:
        """Return the class names by index, the background first: those of `classes`, else of all labels."""
        if self.classes is not None:
            return self.classes
        names = dict.fromkeys(name for t in timelines for name in t.video.categories)
        names.pop(BACKGROUND, None)
        if self.to == "avss" and len(names) > MAX_CLASSES:
            raise UserError(f"{self.source}: expected at most {MAX_CLASSES} categories, got {len(names)}")
        return (BACKGROUND, *names)

    def _configs(self, root: Path) -> dict[str, dict[str, Any]]:
        """Return the configs of the data sets that read the clips, by split."""
        frames = {} if self.to == "avss" else {"num_frames": self.seconds}
        base = {"type": DATA_SETS[self.to], "data_root": str(root), **frames}
        return {split: {**base, "split": split} for split in self.splits}

    def _each(
        self, videos: Iterable[LabelledVideo], function: Callable[[LabelledVideo], Timeline], faults: list[str]
    ) -> list[Timeline]:
        bar = tqdm(videos, unit="video", disable=not self.progress, dynamic_ncols=True)
        found = [attempt(faults, function, video) for video in bar]
        return [timeline for timeline in found if timeline is not None]

    def _stop(self, faults: Sequence[str]) -> None:
        """Raise a UserError if there are faults; print them before if there are several."""
        distinct = list(dict.fromkeys(faults))
        if len(distinct) == 1:
            raise UserError(distinct[0])
        if distinct:
            for fault in distinct:
                tqdm.write(fault, file=sys.stderr)
            raise UserError(f"{self.source}: {len(distinct)} faults; nothing is written")


def write_pictures(folder: Path, timeline: Timeline) -> list[str]:
    """Write `frames/{video}/{number}.jpg` of the labelled frames; return their paths relative to `folder`."""
    names = [f"frames/{timeline.video.name}/{number}.jpg" for number in timeline.numbers.tolist()]
    (folder / "frames" / timeline.video.name).mkdir(parents=True)
    with open_labelled(timeline.video) as source:
        for number, picture in source.numbered(set(timeline.numbers.tolist())):
            path = folder / "frames" / timeline.video.name / f"{number}.jpg"
            if not cv2.imwrite(str(path), picture[..., ::-1]):
                raise UserError(f"{path}: cannot be written")
    return names


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it is renamed to `target`, on an error it is removed.

    Raises:
        UserError: if the parent cannot be written to.
    """
    created = [path for path in target.parents if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in created if not target.exists() else ():
            with suppress(OSError):
                path.rmdir()
