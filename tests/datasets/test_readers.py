"""Readers of pictures: every mode of a file gives the same mask or frame."""

import numpy as np
import pytest
from PIL import Image

from avsmamba.datasets.readers import read_frame, read_mask

MASK = np.array([[0, 1, 1], [1, 0, 0]], bool)


def save(path, mode, palette=None):
    """MASK as a picture of one of the kinds in which masks occur."""
    if mode == "1":
        picture = Image.fromarray(MASK)
    elif mode == "P":
        picture = Image.fromarray((MASK * (len(palette) // 3 - 1)).astype(np.uint8))
        picture.putpalette(palette)
    elif mode == "I;16":
        picture = Image.fromarray((MASK * 65535).astype(np.uint16))
    else:
        picture = Image.fromarray((MASK * 255).astype(np.uint8)).convert(mode)
    assert picture.mode == mode
    picture.save(path)


@pytest.mark.parametrize(
    ("mode", "palette"),
    [
        *[(mode, None) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16")],
        ("P", [0, 0, 0, 255, 255, 255]),
        ("P", [i // 3 for i in range(768)]),
        ("P", [0, 0, 0, 128, 0, 0]),
        ("P", [0, 0, 0, 0, 0, 255]),
    ],
)
def test_masks_of_every_kind_read_alike(tmp_path, mode, palette):
    save(tmp_path / "mask.png", mode, palette)
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8 and np.array_equal(mask, MASK)


def test_the_threshold_of_a_mask_is_half_of_full_scale(tmp_path):
    Image.fromarray(np.array([[0, 1, 127, 128, 255]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 0, 0, 1, 1]]


def test_grey_and_transparent_frames(tmp_path):
    grey = np.array([[10, 200, 30], [40, 50, 60]], np.uint8)
    for mode in ("L", "LA", "RGBA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "frame.png")
        assert np.array_equal(read_frame(tmp_path / "frame.png"), np.stack([grey] * 3, axis=2))
    picture = Image.fromarray(np.dstack([grey, grey[::-1], grey, np.zeros_like(grey)]))
    picture.save(tmp_path / "frame.png")
    assert np.array_equal(read_frame(tmp_path / "frame.png"), np.asarray(picture)[..., :3])


def test_read_frame_is_rgb(tmp_path):
    picture = np.zeros((3, 4, 3), np.uint8)
    picture[..., 0] = 200
    Image.fromarray(picture).save(tmp_path / "red.png")
    assert read_frame(tmp_path / "red.png")[0, 0].tolist() == [200, 0, 0]
