"""CVAT's XML. CVAT does not run here: the files are written as its documentation and its exporter describe them."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pytest

from avsmamba.own_data.cvat import mask_code
from avsmamba.utils import UserError
from tests.own_data.clips import COUNT, HEIGHT, RATE, WIDTH, box, expected, mask, ms3_masks, polygon, run

SQUARE = "4,4;20,4;20,30;4,30"


def task(step=1, start=0, stop=COUNT - 1, source="dog.mp4", labels=("dog",)):
    """The head of an export of a task."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    meta = SubElement(root, "meta")
    head = SubElement(meta, "task")
    frame_filter = f"step={step}" if step > 1 else ""
    values = {"id": 12, "name": "a task", "size": len(range(start, stop + 1, step)), "mode": "interpolation"}
    for name, value in {**values, "start_frame": start, "stop_frame": stop, "frame_filter": frame_filter}.items():
        SubElement(head, name).text = str(value)
    listed = SubElement(head, "labels")
    for label in labels:
        entry = SubElement(listed, "label")
        for name, text in (("name", label), ("color", "#ff0000"), ("type", "any")):
            SubElement(entry, name).text = text
    size = SubElement(head, "original_size")
    SubElement(size, "width").text, SubElement(size, "height").text = str(WIDTH), str(HEIGHT)
    SubElement(meta, "dumped").text = "2024-05-01 10:00:00.000000+00:00"
    SubElement(meta, "source").text = source
    return root


def add_track(root, label="dog"):
    number = len(root.findall("track"))
    return SubElement(root, "track", id=str(number), label=label, source="manual")


def add(track, frame, points=SQUARE, outside=0, keyframe=1, **more):
    entry = {"frame": frame, "keyframe": keyframe, "outside": outside, "occluded": 0, "points": points, "z_order": 0}
    return SubElement(track, "polygon", {k: str(v) for k, v in {**entry, **more}.items()})


def add_mask(root, frame, found, stop=COUNT - 1, step=1, label="dog"):
    """A mask as CVAT exports it: a track of one frame, with an end unless the task ends there."""
    track = add_track(root, label)
    for number, outside in ((frame, "0"), (frame + step, "1")):
        if outside == "0" or number < stop:
            more = {"frame": str(number), "outside": outside, "z_order": "0"}
            SubElement(track, "mask", {"keyframe": "1", "occluded": "0", **mask_code(found), **more})


def save(root, path):
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def points(number):
    values = polygon(number)
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(values[::2], values[1::2], strict=True))


def test_a_track_with_every_frame(videos, tmp_path):
    root = task()
    track = add_track(root)
    for number in range(COUNT):
        shown = number if box(number) else 19
        add(track, number, points(shown), outside=int(not box(number)), keyframe=int(number % 7 == 0))
    run(save(root, tmp_path / "annotations.xml"), videos, tmp_path / "out", ratio=(1, 0, 0))
    assert np.array_equal(ms3_masks(tmp_path / "out", "dog"), expected())


def test_masks(videos, tmp_path):
    root = task()
    for number in range(0, COUNT, RATE):
        if box(number):
            add_mask(root, number, mask(number))
    run(save(root, tmp_path / "a.xml"), videos, tmp_path / "out", ratio=(1, 0, 0))
    assert np.array_equal(ms3_masks(tmp_path / "out", "dog"), expected())
    root = task()
    add_mask(root, 5, mask(5), stop=5)  # without an end, as at the end of a task
    run(save(root, tmp_path / "b.xml"), videos, tmp_path / "b", ratio=(1, 0, 0))
    assert [found.any() for found in ms3_masks(tmp_path / "b", "dog")] == [False, True, False, False, False]


def test_keyframes_are_interpolated_and_outside_ends(videos, tmp_path):
    root = task()
    track = add_track(root)
    add(track, 0, "0,10;10,10;10,20;0,20")
    add(track, 10, "20,10;30,10;30,20;20,20")
    add(track, 15, "40,10;50,10;50,20;40,20", outside=1)
    add(track, 20, "5,0;15,0;15,10;5,10")
    run(save(root, tmp_path / "a.xml"), videos, tmp_path / "out", ratio=(1, 0, 0))
    found = ms3_masks(tmp_path / "out", "dog")
    boxes = [(0, 10), (10, 10), (20, 10), None, (5, 0)]  # left and top in the pictures 0, 5, 10, 15, 20
    for shown, corner in zip(found, boxes, strict=True):
        true = np.zeros((HEIGHT, WIDTH), bool)
        if corner:
            true[corner[1] : corner[1] + 10, corner[0] : corner[0] + 10] = True
        assert np.array_equal(shown, true)


def test_a_task_of_some_frames(videos, tmp_path):
    root = task(step=5, start=5, stop=34)
    track = add_track(root)
    for number in range(5, 35, 5):
        add(track, number, points(number) if box(number) else SQUARE, outside=int(not box(number)))
    run(save(root, tmp_path / "a.xml"), videos, tmp_path / "out", ratio=(1, 0, 0))
    assert np.array_equal(ms3_masks(tmp_path / "out", "dog", start=1), expected(1))


def test_layers_decide_what_covers_what(videos, tmp_path):
    import cv2

    root = task(labels=("dog", "cat"))
    add(add_track(root, "cat"), 0, "0,0;40,0;40,40;0,40", z_order=2)
    add(add_track(root, "dog"), 0, "20,0;60,0;60,40;20,40", z_order=1)
    run(save(root, tmp_path / "a.xml"), videos, tmp_path / "out", to="avss", ratio=(1, 0, 0))
    labels = cv2.imread(str(tmp_path / "out/AVSS/v1m/dog_0/labels_semantic/0.png"), cv2.IMREAD_UNCHANGED)
    assert (labels[5, 5], labels[5, 30], labels[5, 50], labels[45, 5]) == (2, 2, 1, 0)


def spoilt(change):
    root = task()
    track = add_track(root)
    change(root, track)
    return root


FAULTS = {
    "outside the picture": (lambda r, t: add(t, 0, "4,4;80,4;20,30"), r"track 0, frame 0: point \(80, 4\) is outside"),
    "another shape": (lambda r, t: SubElement(t, "box", frame="0"), r"track 0: a box is no outline"),
    "points": (lambda r, t: add(t, 0, "4,4;a,4"), r"track 0: polygon of frame 0: "),
    "a frame that the task lacks": (
        lambda r, t: add(t, 90),
        r"track 0: frame 90 is not in the task's frames 0 to 34",
    ),
    "another number of points": (
        lambda r, t: (add(t, 0), add(t, 10, "4,4;20,4;20,30")),
        r"track 0: the polygons of frames 0 and 10 have 4 and 3 points, so that frame 5 cannot be interpolated",
    ),
    "a mask outside": (
        lambda r, t: SubElement(t, "mask", frame="0", rle="0, 4", left="63", top="0", width="2", height="2"),
        r"track 0, frame 0: a mask of 2 x 2 at \(63, 0\) is outside the picture of 64 x 48",
    ),
    "a mask's runs": (
        lambda r, t: SubElement(t, "mask", frame="0", rle="0, 5", left="0", top="0", width="2", height="2"),
        r"track 0, frame 0: expected runs of 4 pixels, got 5",
    ),
    "a mask's keys": (lambda r, t: SubElement(t, "mask", frame="0", rle="0, 5"), r"track 0, frame 0: .*'left'"),
    "pictures": (lambda r, t: SubElement(r, "image"), r"export the task as 'CVAT for video 1\.1'"),
    "the size": (
        lambda r, t: r.find("meta/task/original_size/width").__setattr__("text", "66"),
        r"a\.xml: expected labels of the video's 64 x 48 pixels, got 66 x 48",
    ),
    "frames beyond": (
        lambda r, t: r.find("meta/task/stop_frame").__setattr__("text", "35"),
        r"a\.xml: labels frame 35, but .*dog\.mp4 has the frames 0 to 34",
    ),
    "the step": (
        lambda r, t: r.find("meta/task/frame_filter").__setattr__("text", "every 2"),
        r"frame_filter: expected step=N, got 'every 2'",
    ),
    "the video": (
        lambda r, t: r.find("meta/source").__setattr__("text", "cow.mp4"),
        r"a\.xml: meta\.source: expected one video 'cow' in .*, found none",
    ),
    "a project": (lambda r, t: r.find("meta").remove(r.find("meta/task")), r"a\.xml: expected .*<meta><task>"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name, videos, tmp_path):
    change, words = FAULTS[name]
    path = save(spoilt(change), tmp_path / "a.xml")
    with pytest.raises(UserError, match=words):
        run(path, videos, tmp_path / "out", ratio=(1, 0, 0))
    assert not (tmp_path / "out").exists()
    path.write_text("<annotations>")
    with pytest.raises(UserError, match=r"a\.xml: cannot be read as XML"):
        run(path, videos, tmp_path / "out")


@pytest.mark.parametrize("rows", [["#"], [".#.", "###"], ["..", ".#"], ["##", "##"]])
def test_the_code_of_a_mask(rows):
    found = np.array([[c == "#" for c in row] for row in rows])
    code = mask_code(found)
    runs = [int(n) for n in code["rle"].split(",")]
    part = np.repeat(np.arange(len(runs)) % 2, runs).reshape(int(code["height"]), int(code["width"]))
    left, top = int(code["left"]), int(code["top"])
    assert np.array_equal(np.pad(part, ((top, 0), (left, 0))), found)
