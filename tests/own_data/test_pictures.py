import json
import shutil
import zipfile

import cv2
import numpy as np
import pytest

from avsmamba.datasets.palette import to_colours
from avsmamba.utils import UserError
from tests.own_data.clips import COUNT, HEIGHT, NAMES, RATE, SECONDS, WIDTH, expected, mask, ms3_masks, run

CLASSES = {"background": 0, "cat": 1, "dog": 2, "owl": 3}


def write(root, numbering, value=lambda name, found: found * np.uint8(255), count=SECONDS):
    """A folder of masks a video; `numbering` names the file of a second."""
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for second in range(count):
            picture = value(name, mask(RATE * second).astype(np.uint8))
            assert cv2.imwrite(str(root / name / numbering(name, second)), picture)
    return root


@pytest.mark.parametrize(
    ("numbering", "by_frame"),
    [
        (lambda name, second: f"{second}.png", False),
        (lambda name, second: f"mask_{second:04d}.png", False),
        (lambda name, second: f"{name}_{second + 1}.png", False),
        (lambda name, second: f"frame_{RATE * second:06d}.PNG", True),
    ],
)
def test_binary_masks(numbering, by_frame, videos, tmp_path):
    run(write(tmp_path / "masks", numbering), videos, tmp_path / "out", by_frame=by_frame)
    for name in NAMES:
        assert np.array_equal(ms3_masks(tmp_path / "out", name), expected())


def index(name, found):
    return found * np.uint8(CLASSES[name])


def colour(name, found):
    return to_colours(index(name, found))[..., ::-1]


@pytest.mark.parametrize("value", [index, colour])
def test_masks_of_classes(value, videos, tmp_path):
    classes = tmp_path / "label2idx.json"
    classes.write_text(json.dumps(CLASSES))
    root = write(tmp_path / "masks", lambda name, second: f"{second}.png", value)
    run(root, videos, tmp_path / "out", to="avss", classes=classes)
    assert json.loads((tmp_path / "out/AVSS/label2idx.json").read_text()) == CLASSES
    for name in NAMES:
        folder = tmp_path / f"out/AVSS/v1m/{name}_0/labels_semantic"
        found = np.stack([cv2.imread(str(folder / f"{k}.png"), cv2.IMREAD_UNCHANGED) for k in range(5)])
        assert np.array_equal(found, expected() * CLASSES[name])


def test_faults(videos, tmp_path, capsys):
    root = write(tmp_path / "masks", lambda name, second: f"{second}.png")
    cv2.imwrite(str(root / "cat/3.png"), np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    cv2.imwrite(str(root / "dog/2.png"), np.full((HEIGHT, WIDTH), 3, np.uint8))
    (root / "owl/4.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="masks: 3 faults; nothing is written"):
        run(root, videos, tmp_path / "out")
    size, values, damaged = capsys.readouterr().err.splitlines()
    assert "cat/3.png: expected labels of the video's 64 x 48 pixels, got 65 x 48" in size
    assert "dog/2.png: expected grey values 0 and 255, got 3; class indices require --classes" in values
    assert "owl/4.png: cannot be read as a picture" in damaged
    shutil.rmtree(root)
    write(root, lambda name, second: f"{second}.png", count=SECONDS + 1)
    shutil.rmtree(root / "owl")
    (root / "cow").mkdir()
    (root / "dog/05.png").touch()
    (root / "cat/x.png").touch()
    with pytest.raises(UserError, match="3 faults"):
        run(root, videos, tmp_path / "out")
    number, video, repeated = sorted(capsys.readouterr().err.splitlines())
    assert "cat/x.png: expected a name that ends with the number of its frame, got 'x.png'" in number
    assert "cow: expected one video 'cow' in" in video and "dog: 05.png and 5.png have the same number" in repeated
    shutil.rmtree(root / "cow")
    (root / "cat/x.png").unlink()
    (root / "dog/05.png").unlink()
    with pytest.raises(UserError, match="2 faults"):
        run(root, videos, tmp_path / "out")
    assert "cat: labels frame 7 s, but" in capsys.readouterr().err
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(UserError, match="masks: expected a folder of PNG masks for each video, found none"):
        run(root, videos, tmp_path / "out")


def test_the_export_segmentation_mask(videos, tmp_path):
    """As CVAT documents "Segmentation mask 1.1": colours by labelmap.txt, no picture for a frame without objects."""
    names = [f"frame_{number:06d}" for number in range(COUNT)]
    with zipfile.ZipFile(tmp_path / "dog.zip", "w") as archive:
        head = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:10,128,0::\ncat:1,2,3::\n"
        archive.writestr("labelmap.txt", head)
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join(names))
        for number, name in enumerate(names):
            if mask(number).any():
                picture = np.where(mask(number)[..., None], np.array([0, 128, 10], np.uint8), np.uint8(0))
                archive.writestr(f"SegmentationClass/{name}.png", cv2.imencode(".png", picture)[1].tobytes())
    run(tmp_path / "dog.zip", videos, tmp_path / "out", to="s4", ratio=(0, 0, 1))
    folder = tmp_path / "out/Single-source/s4_data/gt_masks/test/dog/dog_0"
    found = np.stack([cv2.imread(str(folder / f"dog_0_{k}.png"), 0) == 255 for k in range(1, 6)])
    assert np.array_equal(found, expected())
    with zipfile.ZipFile(tmp_path / "owl.zip", "w") as archive:
        archive.writestr("labelmap.txt", "dog:10,128,1::\n")
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join(names))
        archive.writestr("SegmentationClass/frame_000000.png", cv2.imencode(".png", picture + 1)[1].tobytes())
    with pytest.raises(UserError, match=r"frame_000000\.png: no label of labelmap\.txt has the colour \(1, 1, 1\)"):
        run(tmp_path / "owl.zip", videos, tmp_path / "no", ratio=(1, 0, 0))
    (tmp_path / "bad.zip").write_bytes((tmp_path / "owl.zip").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"bad\.zip: expected json, xml, zip, or a folder of masks"):
        run(tmp_path / "bad.zip", videos, tmp_path / "no")
