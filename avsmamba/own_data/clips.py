"""Choose a picture and its labels for each second of a video, and cut the seconds into clips."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsmamba.own_data.labelled import LabelledVideo, Objects, Size, check_size
from avsmamba.utils import UserError
from avsmamba.video import Video, open_video
from avsmamba.video.container import TOLERANCE
from avsmamba.video.reader import END_MARGIN

NEAR = 0.5  # s; a labelled frame further from its second is not of it


@dataclass(frozen=True)
class Timeline:
    """The pictures and labelled frames of a video on its clock.

    Attributes:
        video: the labels.
        size: height and width of the pictures.
        times: `(N,)` of the pictures, s.
        end: of the last picture, s.
        numbers: `(L,)` number of the picture of each labelled frame.
        at: `(L,)` time of each labelled frame, s.
        has_audio: whether it has sound.
    """

    video: LabelledVideo
    size: Size
    times: NDArray[np.float64]
    end: float
    numbers: NDArray[np.int64]
    at: NDArray[np.float64]
    has_audio: bool

    @property
    def seconds(self) -> int:
        """Return the number of seconds that begin before the end."""
        return int(np.ceil(self.end - END_MARGIN))

    def chosen(self, second: int, offset: float) -> tuple[int, int | None]:
        """Return the number of a second's picture, and the index of its labels or None.

        It is the picture shown `offset` after the second's begin. If it is not labelled, the nearest labelled frame
        is taken instead, if there is one within `NEAR`.
        """
        time = second + offset
        shown = max(0, int(np.searchsorted(self.times, time + TOLERANCE)) - 1)
        same = np.flatnonzero(self.numbers == shown)
        if len(same) and not self.video.timed:
            return shown, int(same[0])
        near = same if len(same) else np.arange(len(self.at))
        label = int(near[np.abs(self.at[near] - time).argmin()])
        if abs(self.at[label] - time) >= NEAR:
            return shown, None
        return int(self.numbers[label]), label


@dataclass(frozen=True)
class Clip:
    """Seconds of a video that become one clip.

    Attributes:
        name: of its files.
        split: 'train', 'val' or 'test'.
        timeline: of the video.
        start: first second.
        pictures: number of each second's picture.
        labels: index of each second's labels; None: not labelled.
        category: of the folder in S4; empty: that of its objects.
    """

    name: str
    split: str
    timeline: Timeline
    start: int
    pictures: tuple[int, ...]
    labels: tuple[int | None, ...]
    category: str = ""


def open_labelled(video: LabelledVideo) -> Video:
    """Open the pictures and the sound of a video.

    Raises:
        UserError: if it cannot be read, or the rate of a folder of pictures is unknown.
    """
    if video.path.is_dir() and not 0 < (video.rate or 0) < float("inf"):
        raise UserError(f"{video.path}: is a folder of pictures: --frame-rate: expected their number per second")
    return open_video(video.path, video.rate or 1.0)


def read_timeline(video: LabelledVideo) -> Timeline:
    """Read the times of a video's pictures and locate the labelled frames.

    Raises:
        UserError: if the video cannot be read, has another size than the labels, ends before a labelled frame, or no
            frame is labelled.
    """
    with open_labelled(video) as source:
        pairs = np.array(list(source.times()))
        size = source.info.height, source.info.width
        has_audio = source.info.has_audio
    if video.size is not None:
        check_size(video.size, size, video.where)
    times, end = pairs[:, 0], float(pairs[-1, 1])
    frames = np.array(video.frames, float)
    if not len(frames):
        raise UserError(f"{video.where}: no frame is labelled")
    if not np.isfinite(frames).all() or np.any(np.diff(frames) <= 0) or frames[0] < 0:
        raise UserError(f"{video.where}: expected frames in ascending order from 0")
    last, beyond = frames[-1], end - END_MARGIN if video.timed else len(times)
    if last >= beyond:
        what = f"{last:g} s, but {video.path} ends at {end:g} s" if video.timed else f"{int(last)}"
        have = "" if video.timed else f", but {video.path} has the frames 0 to {len(times) - 1}"
        raise UserError(f"{video.where}: labels frame {what}{have}")
    numbers = np.searchsorted(times, frames + TOLERANCE) - 1 if video.timed else frames.astype(np.int64)
    numbers = numbers.clip(min=0)
    return Timeline(video, size, times, end, numbers, frames if video.timed else times[numbers], has_audio)


def cut(timeline: Timeline, split: str, seconds: int, offset: float, labelled: int) -> Iterator[Clip]:
    """Yield the clips of a video, one after the other.

    Args:
        timeline: of the video.
        split: of its clips.
        seconds: of a clip.
        offset: see `Timeline.chosen`.
        labelled: how many of a clip's first seconds must be labelled.
    """
    chosen = [timeline.chosen(second, offset) for second in range(timeline.seconds)]
    start = 0
    while start + seconds <= len(chosen):
        part = chosen[start : start + seconds]
        if any(label is None for _, label in part[:labelled]):
            start += 1
            continue
        pictures, labels = zip(*part, strict=True)
        yield Clip(f"{timeline.video.name}_{start}", split, timeline, start, pictures, labels)
        start += seconds


@dataclass(frozen=True)
class Content:
    """What a clip's files hold: `(h, w, 3)` pictures, objects of the labelled seconds, and `(samples,)` of sound."""

    clip: Clip
    pictures: list[NDArray[np.uint8]]
    objects: list[Objects]
    wave: NDArray[np.float32]

    @property
    def categories(self) -> list[str]:
        """Return the categories of the objects that are not empty, in order of their first frame."""
        names = [name for objects in self.objects for name, mask in objects if mask.any()]
        return list(dict.fromkeys(names))


def read_clips(clips: list[Clip], labelled: int, faults: list[str]) -> Iterator[Content]:
    """Read the clips of one video, one at a time; one whose labels do not fit adds to `faults`.

    Args:
        clips: in order of their start.
        labelled: how many of a clip's first seconds have labels.
        faults: gets a line for each object that does not fit.
    """
    timeline = clips[0].timeline
    wanted = {number for clip in clips for number in clip.pictures}
    waiting = list(clips)
    buffer: dict[int, Any] = {}
    with open_labelled(timeline.video) as source:
        for number, picture in source.numbered(wanted):
            buffer[number] = picture
            while waiting and number >= max(waiting[0].pictures):
                clip = waiting.pop(0)
                pictures = [buffer[n] for n in clip.pictures]
                left = min((n for later in waiting for n in later.pictures), default=number + 1)
                buffer = {n: p for n, p in buffer.items() if n >= left}
                objects: list[Objects] = []
                for label in clip.labels[:labelled]:
                    assert label is not None
                    try:
                        objects.append(timeline.video.read(label, timeline.size))
                    except UserError as error:
                        faults.append(str(error))
                if len(objects) == labelled:
                    wave = source.sound(clip.start, clip.start + len(clip.pictures))
                    yield Content(clip, pictures, objects, wave)
            if not waiting:
                break
    faults += [f"{timeline.video.path}: its pictures for {clip.name} cannot be decoded" for clip in waiting]
