"""Small videos, the boxes that sound in them, and the labels of these boxes in each format."""

import json

import cv2
import numpy as np
from pycocotools import mask as coco

from avsmamba.own_data.convert import Importer
from tests.video.clips import tone, write_clip

NAMES = ("cat", "dog", "owl")
HEIGHT, WIDTH, RATE, SECONDS = 48, 64, 5, 7
COUNT = RATE * SECONDS
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "owl"}]


def write_video(path, sound=True, count=COUNT):
    wave = tone(48_000, count / RATE, 0, count / RATE) if sound else None
    return write_clip(path, (HEIGHT, WIDTH), [k / RATE for k in range(count)], RATE, wave)


def box(number):
    """Left, top, right and bottom of the object in picture `number`; None in every fifth second."""
    if number // RATE % 5 == 4:
        return None
    return 4 + number % 20, 6 + number % 7, 20 + number % 20, 30


def mask(number):
    """`(h, w)` bool of picture `number`."""
    found = np.zeros((HEIGHT, WIDTH), bool)
    if box(number):
        left, top, right, bottom = box(number)
        found[top:bottom, left:right] = True
    return found


def code(number, compressed=True):
    """COCO's run lengths of picture `number`, None if nothing sounds."""
    if not box(number):
        return None
    if compressed:
        encoded = coco.encode(np.asfortranarray(mask(number), np.uint8))
        return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
    flat = mask(number).T.ravel()
    ends = np.flatnonzero(np.diff(flat.astype(int), append=2)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(ends, prepend=0).tolist()}


def polygon(number):
    left, top, right, bottom = box(number)
    return [left, top, right, top, right, bottom, left, bottom]


def youtube_vis(segment=code, **video):
    """A JSON of all videos, with a segmentation for every picture."""
    entries = [
        {"id": i, "name": n, "height": HEIGHT, "width": WIDTH, "length": COUNT, **video} for i, n in enumerate(NAMES)
    ]
    annotations = [
        {
            "id": 10 + i,
            "video_id": i,
            "category_id": CATEGORIES[i]["id"],
            "segmentations": [segment(number) for number in range(COUNT)],
        }
        for i in range(len(NAMES))
    ]
    return {"videos": entries, "annotations": annotations, "categories": CATEGORIES}


def save(path, content):
    path.write_text(json.dumps(content))
    return path


def ms3_masks(root, name, start=0, split=None):
    """The masks of a clip of `Multi-sources`, `(5, h, w)` bool."""
    found = sorted((root / "Multi-sources/ms3_data/gt_masks").glob(f"{split or '*'}/{name}_{start}/*.png"))
    assert len(found) == 5
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 255 for path in found])


def expected(start=0, picture=lambda second: RATE * second):
    return np.stack([mask(picture(second)) for second in range(start, start + 5)])


def run(source, videos, out, to="ms3", **options):
    """Import without a preview page; every fault of the result is an error."""
    importer = Importer(source, videos, to, out, **{"ratio": (1, 1, 1), "preview": 0, **options})
    assert importer.run() == 0
    return out
