import copy
import zipfile

import cv2
import numpy as np
import pytest

from avsmamba.utils import UserError
from tests.own_data.clips import (
    CATEGORIES,
    COUNT,
    HEIGHT,
    NAMES,
    RATE,
    SECONDS,
    WIDTH,
    box,
    code,
    expected,
    mask,
    ms3_masks,
    polygon,
    run,
    save,
    youtube_vis,
)
from tests.video.clips import index_of, picture


def not_compressed(number):
    return code(number, compressed=False)


def polygons(number):
    return [polygon(number)] if box(number) else None


@pytest.mark.parametrize("segment", [code, not_compressed, polygons])
def test_segmentations_of_videos(segment, videos, tmp_path):
    run(save(tmp_path / "labels.json", youtube_vis(segment)), videos, tmp_path / "out")
    for name in NAMES:
        assert np.array_equal(ms3_masks(tmp_path / "out", name), expected())
    folder = tmp_path / "out/Multi-sources/ms3_data/visual_frames/dog_0"
    shown = [cv2.imread(str(folder / f"dog_0.mp4_{t}.png"))[..., ::-1] for t in range(1, 6)]
    assert [index_of(frame) for frame in shown] == [RATE * k % 20 for k in range(5)]


def write_folders(root, step):
    """Folders of pictures named as in YouTube-VIS; only every `step`-th is listed."""
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for number in range(COUNT):
            cv2.imwrite(str(root / name / f"{number:05d}.jpg"), picture(HEIGHT, WIDTH, number))
    content = youtube_vis(lambda number: code(number) if number % step == 0 else "left out")
    for video in content["videos"]:
        name = video.pop("name")
        video["file_names"] = [f"{name}/{number:05d}.jpg" for number in range(0, COUNT, step)]
    for annotation in content["annotations"]:
        annotation["segmentations"] = [s for s in annotation["segmentations"] if s != "left out"]
    return content


def test_youtube_vis_of_folders_of_pictures(tmp_path, capsys):
    labels = save(tmp_path / "labels.json", write_folders(tmp_path / "frames", step=2))
    with pytest.raises(UserError, match=r"labels\.json: 3 faults"):
        run(labels, tmp_path / "frames", tmp_path / "out", no_audio="silence")
    assert "frames/cat: is a folder of pictures: --frame-rate: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^3 videos without sound: .*cat, .*dog, .*owl \(--no-audio skip or silence\)"):
        run(labels, tmp_path / "frames", tmp_path / "out", frame_rate=RATE)
    run(labels, tmp_path / "frames", tmp_path / "out", frame_rate=RATE, no_audio="silence")
    # Second 1 shows picture 5, which is not labelled; 4 is as near as 6.
    numbers = [0, 4, 10, 14, 20]
    assert np.array_equal(ms3_masks(tmp_path / "out", "cat"), np.stack([mask(n) for n in numbers]))
    frame = cv2.imread(str(tmp_path / "out/Multi-sources/ms3_data/visual_frames/cat_0/cat_0.mp4_2.png"))
    assert index_of(frame[..., ::-1]) == 4


def of_pictures(naming):
    """Picture by picture, as CVAT's "COCO 1.0" or CocoVID; every picture is listed."""
    images, annotations = [], []
    for i, name in enumerate(NAMES):
        for number in range(COUNT):
            image = {"id": len(images), "height": HEIGHT, "width": WIDTH, **naming(i, name, number)}
            images.append(image)
            if box(number):
                entry = {"id": len(annotations), "image_id": image["id"], "category_id": CATEGORIES[i]["id"]}
                crowd = number % 2  # CVAT writes masks as run lengths, and outlines as polygons
                shape = code(number, compressed=False) if crowd else [polygon(number)]
                annotations.append({**entry, "segmentation": shape, "iscrowd": crowd})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def test_pictures_of_videos(videos, tmp_path):
    by_folder = of_pictures(lambda i, name, number: {"file_name": f"{name}/frame_{number:06d}.PNG"})
    run(save(tmp_path / "a.json", by_folder), videos, tmp_path / "a")
    coco_vid = of_pictures(lambda i, name, number: {"file_name": "x.png", "video_id": i, "frame_id": number})
    coco_vid["videos"] = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    run(save(tmp_path / "b.json", coco_vid), videos, tmp_path / "b")
    for name in NAMES:
        assert np.array_equal(ms3_masks(tmp_path / "a", name), expected())
        assert np.array_equal(ms3_masks(tmp_path / "b", name), expected())


def test_one_video_has_any_name(videos, tmp_path):
    content = of_pictures(lambda i, name, number: {"file_name": f"frame_{number:06d}.PNG"})
    content["images"] = content["images"][:COUNT]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < COUNT]
    labels = save(tmp_path / "instances_default.json", content)
    run(labels, videos / "owl.mp4", tmp_path / "out", ratio=(1, 0, 0))
    assert np.array_equal(ms3_masks(tmp_path / "out", "owl", split="train"), expected())
    with zipfile.ZipFile(tmp_path / "dog.zip", "w") as archive:  # CVAT's "COCO 1.0" without pictures
        archive.write(labels, "annotations/instances_default.json")
    run(tmp_path / "dog.zip", videos, tmp_path / "zip", ratio=(1, 0, 0))
    assert np.array_equal(ms3_masks(tmp_path / "zip", "dog"), expected())


FAULTS = {
    "a missing video": (
        lambda c: c["videos"][1].update(name="cow"),
        r"l\.json: videos\[id 1\]: expected one video 'cow' in .*videos, found none",
    ),
    "an unknown category": (
        lambda c: c["annotations"][2].update(category_id=4),
        r"l\.json: annotations\[2\]\.category_id: expected one of \[3, 7, 9\], got 4",
    ),
    "no such video": (
        lambda c: c["annotations"][2].update(video_id=8),
        r"l\.json: annotation 12: video_id: there is no 8",
    ),
    "too few segmentations": (
        lambda c: c["annotations"][0]["segmentations"].pop(),
        rf"l\.json: annotations\[id 10\]\.segmentations: expected {COUNT} frames, got {COUNT - 1}",
    ),
    "frames beyond the video": (
        lambda c: (c["videos"][0].update(length=COUNT + 1), c["annotations"][0]["segmentations"].append(None)),
        rf"l\.json: videos\[id 0\]: labels frame {COUNT}, but .*cat\.mp4 has the frames 0 to {COUNT - 1}",
    ),
    "times beyond the video": (
        lambda c: c["videos"][0].update(times=[k / 4 for k in range(COUNT)]),
        rf"l\.json: videos\[id 0\]: labels frame 8\.5 s, but .*cat\.mp4 ends at {SECONDS} s",
    ),
    "another size": (
        lambda c: c["videos"][2].update(width=WIDTH + 2),
        r"l\.json: videos\[id 2\]: expected labels of the video's 64 x 48 pixels, got 66 x 48",
    ),
    "a code of another size": (
        lambda c: c["annotations"][1]["segmentations"][0].update(size=[WIDTH, HEIGHT]),
        r"l\.json: annotations\[id 11\]\.segmentations\[0\]: .* the video's 64 x 48 pixels, got 48 x 64",
    ),
    "a code that is cut short": (
        lambda c: c["annotations"][1]["segmentations"][5].update(counts=[7, 5]),
        r"l\.json: annotations\[id 11\]\.segmentations\[5\]: .*: its counts add up to 12 pixels of 3072",
    ),
    "a polygon outside": (
        lambda c: c["annotations"][0]["segmentations"].__setitem__(10, [[1, 1, 99, 1, 9, 9]]),
        r"l\.json: annotations\[id 10\]\.segmentations\[10\]: point \(99, 1\) is outside the picture of 64 x 48",
    ),
    "a line": (
        lambda c: c["annotations"][0]["segmentations"].__setitem__(10, [[1, 1, 9, 1]]),
        r"segmentations\[10\]: expected a polygon of at least three points, got 2",
    ),
    "numbers": (
        lambda c: c["annotations"][0]["segmentations"].__setitem__(10, [1, 1, 9]),
        r"segmentations\[10\]: expected polygons, x and y of their points in turn, got 1",
    ),
}


@pytest.fixture(scope="module")
def content():
    return youtube_vis()


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_the_key_and_nothing_is_written(name, content, videos, tmp_path, capsys):
    spoil, words = FAULTS[name]
    spoilt = copy.deepcopy(content)
    spoil(spoilt)
    with pytest.raises(UserError, match=words):
        run(save(tmp_path / "l.json", spoilt), videos, tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["l.json"]
    assert capsys.readouterr().err == ""


def test_several_faults_are_all_printed(content, videos, tmp_path, capsys):
    spoilt = copy.deepcopy(content)
    spoilt["videos"][1]["name"] = "cow"
    spoilt["annotations"][2]["category_id"] = 4
    with pytest.raises(UserError, match=r"l\.json: 2 faults; nothing is written"):
        run(save(tmp_path / "l.json", spoilt), videos, tmp_path / "out")
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2 and "category_id" in printed[0] and "'cow'" in printed[1]


def test_other_json(videos, tmp_path):
    for content, words in (
        ({"videos": []}, "expected a list 'categories', as COCO has it"),
        ({"categories": [], "annotations": []}, "expected a list 'videos' or 'images'"),
        ({"categories": [{}], "annotations": []}, "cannot be read as COCO or Label Studio: it lacks 'id'"),
        ({"categories": [], "annotations": [], "videos": [3]}, "cannot be read as COCO or Label Studio: "),
        ("text", r"expected a mapping \(COCO\) or a list of tasks"),
        ({"categories": [], "annotations": [], "videos": []}, "has no labelled video"),
    ):
        with pytest.raises(UserError, match=rf"x\.json: {words}"):
            run(save(tmp_path / "x.json", content), videos, tmp_path / "out")
