"""Frames and visible pixels of scenes."""

import cv2
import numpy as np
import pytest

from avsmamba.sounding_shapes.pictures import OUTLINES, Scene, Shape, draw_clip, random_scene
from avsmamba.sounding_shapes.sounds import KINDS


def test_masks_show_what_sounds():
    """A shape's mask is where its texture is seen; what lies on top takes its pixels."""
    path = np.full((5, 2), 0.5)
    textures = [np.full((64, 64, 3), c, np.uint8) for c in (200, 100)]
    shapes = tuple(
        Shape(k, r, path, np.zeros(5), t) for k, r, t in (("square", 0.4, textures[0]), ("circle", 0.2, textures[1]))
    )
    frames, visible = draw_clip(Scene(np.zeros((64, 64, 3), np.uint8), shapes), 64)
    close = [np.abs(frames[v].astype(int) - c).mean() < 10 for v, c in zip(visible, (200, 100), strict=True)]
    assert all(close)
    assert not (visible[0] & visible[1]).any()
    assert visible[1].sum(axis=(1, 2)) == pytest.approx(np.pi * (0.85 * 0.2 * 64) ** 2, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_of_similar_area(kind):
    shape = Shape(kind, 0.3, np.full((1, 2), 0.5), np.array([0.3]), np.zeros((64, 64, 3), np.uint8))
    area = draw_clip(Scene(np.zeros((8, 8, 3), np.uint8), (shape,)), 200)[1].sum() / (0.3 * 200) ** 2
    assert 1.6 < area < 2.5 and kind in OUTLINES


def test_hues_identify_a_kind_unless_any_is_allowed():
    def hues(colours):
        seen = {k: [] for k in KINDS}
        for i in range(60):
            for shape in random_scene(np.random.default_rng(i), KINDS, 1, colours).shapes:
                hsv = cv2.cvtColor(shape.texture, cv2.COLOR_RGB2HSV)
                seen[shape.kind].append(np.exp(2j * np.pi * np.median(hsv[..., 0]) / 180))
        return np.array([abs(np.mean(seen[k])) for k in KINDS])  # 1: all alike, near 0: all around the circle

    assert hues("kind").min() > 0.9 and hues("any").max() < 0.7
