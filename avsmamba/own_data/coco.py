"""Read COCO's JSON for videos (YouTube-VIS and `masks.json` of `avsmamba predict`) and for pictures of videos."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avsmamba.datasets.readers import attempt
from avsmamba.own_data.labelled import (
    LabelledVideo,
    Mask,
    Objects,
    Size,
    check_size,
    find_video,
    polygon_mask,
    run_length_mask,
    stem_of,
    trailing_number,
)
from avsmamba.utils import UserError
from avsmamba.video.folder import PictureFolder

Entry = Mapping[str, Any]


def read_coco(
    path: Path, content: Mapping[str, Any], name: str, videos: Path, rate: float | None, faults: list[str]
) -> list[LabelledVideo]:
    """Return the videos of a COCO file.

    With `segmentations` in its annotations it is of videos, as YouTube-VIS: an entry a frame. Else it is of pictures
    (`images`), which belong to a video by `video_id` and `frame_id`, or by the folder in `file_name` and the number at
    the end of it (CVAT's export "COCO 1.0").

    Args:
        path: of the file, for messages.
        content: of the file.
        name: of the video of pictures whose `file_name` has no folder.
        videos: folder with the videos, or the one video.
        rate: pictures per second of folders of pictures; None if unknown.
        faults: gets a line for each video or annotation that does not fit.

    Raises:
        UserError: if the file is of another kind.
    """
    for key in ("categories", "annotations"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{path}: expected a list {key!r}, as COCO has it")
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    known = [a for i, a in enumerate(content["annotations"]) if _is_known(path, i, a, names, faults)]
    if isinstance(content.get("videos"), list) and not content.get("images"):
        by_video = _grouped(known, "video_id", [v["id"] for v in content["videos"]], path, faults)
        found = [
            attempt(faults, _of_video, path, entry, by_video[entry["id"]], names, videos, rate)
            for entry in content["videos"]
        ]
    elif isinstance(content.get("images"), list):
        by_image = _grouped(known, "image_id", [i["id"] for i in content["images"]], path, faults)
        stems = {v["id"]: _name_of(v) for v in content.get("videos") or ()}
        groups: dict[str, list[Entry]] = defaultdict(list)
        for image in content["images"]:
            parent = Path(str(image["file_name"])).parent.name
            groups[stems.get(image.get("video_id")) or parent or name].append(image)
        found = [
            attempt(faults, _of_pictures, path, group, images, by_image, names, videos, rate)
            for group, images in groups.items()
        ]
    else:
        raise UserError(f"{path}: expected a list 'videos' or 'images', as COCO has it")
    return [video for video in found if video is not None]


def _is_known(path: Path, place: int, entry: Entry, names: Mapping[Any, str], faults: list[str]) -> bool:
    known = entry.get("category_id") in names
    if not known:
        where = f"{path}: annotations[{place}].category_id"
        faults.append(f"{where}: expected one of {sorted(names)}, got {entry.get('category_id')!r}")
    return known


def _grouped(
    entries: Sequence[Entry], key: str, ids: Iterable[Any], path: Path, faults: list[str]
) -> dict[Any, list[Entry]]:
    """Return the annotations of each id; one of no id adds to `faults`."""
    groups: dict[Any, list[Entry]] = {i: [] for i in ids}
    for entry in entries:
        if entry.get(key) in groups:
            groups[entry[key]].append(entry)
        else:
            faults.append(f"{path}: annotation {entry.get('id')}: {key}: there is no {entry.get(key)!r}")
    return groups


def _name_of(video: Entry) -> str:
    """Return the name of a video: by `name` or `file_name`, else the folder of its `file_names`."""
    files = video.get("file_names") or [""]
    return str(video.get("name") or video.get("file_name") or Path(files[0]).parent)


def _of_video(
    path: Path, video: Entry, annotations: Sequence[Entry], names: Mapping[Any, str], videos: Path, rate: float | None
) -> LabelledVideo:
    where = f"{path}: videos[id {video['id']}]"
    place = find_video(videos, _name_of(video), where)
    files = video.get("file_names")
    count = len(files) if files else int(video.get("length") or max(map(_length, annotations), default=0))
    for entry in annotations:
        if _length(entry) != count:
            raise UserError(f"{_of(path, entry)}.segmentations: expected {count} frames, got {_length(entry)}")
    frames: Sequence[float] = range(count)
    times = video.get("times")
    if times is not None and len(times) != count:
        raise UserError(f"{where}.times: expected {count} numbers, got {len(times)}")
    if files and place.is_dir():
        listed = {file.name: i for i, file in enumerate(PictureFolder(place, 1.0).files)}
        missing = [name for name in files if Path(name).name not in listed]
        if missing:
            raise UserError(f"{where}.file_names: {missing[0]} is not in {place}")
        frames = [listed[Path(name).name] for name in files]

    def read(index: int, size: Size) -> Objects:
        shown = [(a, a["segmentations"][index]) for a in annotations]
        return [
            (names[a["category_id"]], segment_mask(s, size, f"{_of(path, a)}.segmentations[{index}]"))
            for a, s in shown
            if s
        ]

    return LabelledVideo(
        stem_of(place),
        place,
        where,
        frames if times is None else [float(t) for t in times],
        read,
        timed=times is not None,
        size=_size(video),
        rate=rate or float(video.get("fps") or 0) or None,
        categories=list(names.values()),
    )


def _of_pictures(
    path: Path,
    name: str,
    images: Sequence[Entry],
    by_image: Mapping[Any, Sequence[Entry]],
    names: Mapping[Any, str],
    videos: Path,
    rate: float | None,
) -> LabelledVideo:
    where = f"{path}: images of {name}"
    place = find_video(videos, name, where)
    key = f"{path}: images[id {{}}].file_name".format
    numbers = [int(i.get("frame_id", -1)) for i in images]
    if min(numbers) < 0:
        numbers = [trailing_number(str(i["file_name"]), key(i["id"])) for i in images]
    order = sorted(range(len(images)), key=numbers.__getitem__)
    sizes = [_size(image) for image in images]

    def read(index: int, size: Size) -> Objects:
        image = images[order[index]]
        check_size(sizes[order[index]] or size, size, key(image["id"]))
        found = by_image[image["id"]]
        return [
            (names[a["category_id"]], segment_mask(a.get("segmentation"), size, f"{_of(path, a)}.segmentation"))
            for a in found
        ]

    frames, categories = [numbers[i] for i in order], list(names.values())
    return LabelledVideo(stem_of(place), place, where, frames, read, rate=rate, categories=categories)


def segment_mask(segment: Any, size: Size, where: str) -> Mask:
    """Return the mask of a segmentation: polygons or a run-length code."""
    fill: Callable[[Any, Size, str], Mask] = polygon_mask if isinstance(segment, list) else run_length_mask
    return fill(segment, size, where)


def _size(entry: Entry) -> Size | None:
    return (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None


def _length(annotation: Entry) -> int:
    return len(annotation.get("segmentations") or ())


def _of(path: Path, annotation: Entry) -> str:
    return f"{path}: annotations[id {annotation.get('id')}]"
