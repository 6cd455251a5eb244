"""masks.json of `avsmamba predict`, opened by an annotation tool, exported again and read back: the same masks."""

import json
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

import cv2
import numpy as np
import pytest

from avsmamba.inference.predict_video import predict_video
from tests.own_data import test_cvat as cvat
from tests.own_data.clips import run, save

NAME = "clip one"


@pytest.fixture(scope="module")
def predicted(model, video, cutoff, tmp_path_factory):
    """A prediction of eleven seconds of a video with a missing picture, in the files of one class."""
    out = tmp_path_factory.mktemp("predicted")
    predict_video(model, video, out, threshold=cutoff, formats=["masks", "json"])
    return out


@pytest.fixture(scope="module")
def predicted_classes(semantic, video, tmp_path_factory):
    out = tmp_path_factory.mktemp("classes")
    predict_video(semantic, video, out, formats=["masks", "json"])
    return out


def read(folder, names):
    return np.stack([cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for name in names])


def check(source, video, predicted, out, classes=None):
    """Import to MS3 and compare all masks with those that the prediction wrote as pictures."""
    run(source, video, out, ratio=(0, 0, 1))
    for start in (0, 5):
        folder = out / f"Multi-sources/ms3_data/gt_masks/test/{NAME}_{start}"
        found = read(folder, [f"{NAME}_{start}_{k}.png" for k in range(1, 6)])
        true = read(predicted / "masks", [f"{NAME}_{start + k}.png" for k in range(1, 6)])
        assert np.array_equal(found, true) and 0 < np.mean(true == 255) < 1


def check_classes(source, video, predicted, out, classes=None):
    run(source, video, out, to="avss", seconds=10, ratio=(0, 0, 1), classes=classes)
    names = [f"{k}.png" for k in range(10)]
    found = read(out / f"AVSS/v2/{NAME}_0/labels_semantic", names)
    assert np.array_equal(found, read(predicted / "masks/labels_semantic", names)) and len(np.unique(found)) > 1


def test_masks_json_itself(predicted, predicted_classes, video, tmp_path):
    check(predicted / "masks.json", video, predicted, tmp_path / "a")
    check_classes(predicted_classes / "masks.json", video, predicted_classes, tmp_path / "b")


def exported_by_cvat(path):
    """What CVAT's importer keeps of a file, as its exporter writes it: the first mask of a track, in a new one."""
    old = ElementTree.parse(path).getroot()
    head = old.find("meta/task")
    stop = int(head.findtext("size")) - 1
    labels = [name.text for name in head.iterfind("labels/label/name")]
    new = cvat.task(stop=stop, source=old.findtext("meta/task/source"), labels=labels)
    for side in ("width", "height"):
        new.find(f"meta/task/original_size/{side}").text = head.findtext(f"original_size/{side}")
    for track in old.iter("track"):
        assert track.get("label") in labels
        entry = track.find("mask")
        assert entry.get("keyframe") == "1" and entry.get("outside") == "0" and 0 <= int(entry.get("frame")) <= stop
        copy = cvat.add_track(new, track.get("label"))
        kept = {k: entry.get(k) for k in ("rle", "left", "top", "width", "height", "z_order")}
        for frame, outside in ((int(entry.get("frame")), 0), (int(entry.get("frame")) + 1, 1)):
            if not outside or frame < stop:
                more = {"frame": str(frame), "keyframe": "1", "outside": str(outside), "occluded": "0"}
                SubElement(copy, "mask", {**more, **kept})
    return new


def test_through_cvat(predicted, predicted_classes, video, tmp_path):
    for source, compare in ((predicted, check), (predicted_classes, check_classes)):
        folder = tmp_path / source.name
        run(source / "masks.json", video, folder / "cvat", to="cvat")
        exported = exported_by_cvat(folder / f"cvat/{NAME}.xml")
        compare(cvat.save(exported, folder / "annotations.xml"), video, source, folder / "out")


def exported_by_label_studio(path):
    """Predictions that were submitted unchanged, in an export "JSON"."""
    tasks = json.loads(path.read_text())
    assert all(task["data"]["image"].startswith("/data/local-files/?d=frames/") for task in tasks)
    return [
        {
            "id": 40 + place,
            "annotations": [{"id": place, "was_cancelled": False, "result": task["predictions"][0]["result"]}],
            "predictions": [place],
            "data": task["data"],
            "project": 3,
        }
        for place, task in enumerate(tasks)
    ]


def test_through_label_studio(predicted, predicted_classes, video, tmp_path):
    for source, compare in ((predicted, check), (predicted_classes, check_classes)):
        folder = tmp_path / source.name
        run(source / "masks.json", video, folder / "tool", to="label-studio")
        tasks = exported_by_label_studio(folder / "tool/tasks.json")
        for task in tasks:
            frame = cv2.imread(str(folder / "tool" / task["data"]["image"].partition("?d=")[2]))
            sizes = {(r["original_height"], r["original_width"]) for r in task["annotations"][0]["result"]}
            assert frame.shape == (45, 67, 3) and sizes <= {(45, 67)}
        view = ElementTree.parse(folder / "tool/config.xml").getroot()
        names = {label.get("value") for label in view.iterfind("BrushLabels/Label")}
        assert {v for t in tasks for r in t["annotations"][0]["result"] for v in r["value"]["brushlabels"]} <= names
        classes = folder / "tool/label2idx.json"
        compare(save(folder / "export.json", tasks), video, source, folder / "out", classes)
