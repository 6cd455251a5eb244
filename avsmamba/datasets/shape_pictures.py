"""The pictures of SoundingShapes: textured shapes move over a textured ground; and which pixels show which shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

FINE = 4  # shapes are drawn this many times larger, then averaged: smooth edges
SUBPIXEL_BITS = 4  # cv2 takes corners as fixed-point numbers
TILE = 64  # pixels of a texture
ANY_HUE = (0.0, 360.0)
APART = 0.85  # two centres keep this share of the sum of their radii between them, where there is room


@dataclass(frozen=True)
class Shape:
    """One shape of a scene; lengths are shares of the frame's size.

    Attributes:
        kind: name of the outline.
        radius: of the circle around the outline's unit.
        path: `(T, 2)` centres (x, y).
        angles: `(T,)` radians.
        texture: `(64, 64, 3)` uint8 RGB.
    """

    kind: str
    radius: float
    path: np.ndarray
    angles: np.ndarray
    texture: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A ground, `(n, n, 3)` uint8 RGB of any n, and the shapes upon it, the last one on top."""

    ground: np.ndarray
    shapes: tuple[Shape, ...]


def random_scene(
    rng: np.random.Generator, kinds: Sequence[str], num_frames: int, colours: str = "kind", apart: bool = False
) -> Scene:
    """Two or three shapes of different kinds that move on straight lines, turn, and bounce off the frame's border.

    With `colours` 'kind' each kind keeps to a sixth of the colour circle (for six kinds), with 'any' to none. With
    `apart` no two kinds of a scene are neighbours in `kinds` as a ring, which must then hold six or more.
    """
    count = int(rng.integers(2, 4))
    chosen = rng.permutation(len(kinds))[:count]
    while apart and any((i - j) % len(kinds) == 1 for i in chosen for j in chosen):
        chosen = rng.permutation(len(kinds))[:count]
    radii = rng.uniform(0.15, 0.23, size=count)
    best, most = np.zeros((count, num_frames, 2)), -np.inf
    for _ in range(40):
        paths = np.stack([_random_path(rng, r, num_frames) for r in radii])
        gaps = [
            np.linalg.norm(paths[i] - paths[j], axis=-1).min() / (radii[i] + radii[j])
            for i in range(count)
            for j in range(i)
        ]
        if min(gaps) > most:
            best, most = paths, min(gaps)
        if most > APART:
            break
    shapes = tuple(
        Shape(
            kinds[kind],
            float(radius),
            path,
            rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5) * np.arange(num_frames),
            random_texture(rng, TILE, (0.55, 1.0), 10, _hues(kind, len(kinds)) if colours == "kind" else ANY_HUE),
        )
        for kind, radius, path in zip(chosen, radii, best, strict=True)
    )
    return Scene(random_texture(rng, 4 * TILE, (0.0, 0.4), 6, ANY_HUE), shapes)


def draw_clip(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw all frames.

    Args:
        scene: what to draw.
        size: height and width, pixels.

    Returns:
        `(T, size, size, 3)` uint8 RGB frames and `(S, T, size, size)` bool: where each of the S shapes is seen.
    """
    ground = cv2.resize(scene.ground, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    num_frames = len(scene.shapes[0].path)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    visible = np.zeros((len(scene.shapes), num_frames, size, size), dtype=bool)
    for t in range(num_frames):
        picture = ground.copy()
        for s, shape in enumerate(scene.shapes):
            cover = coverage(shape, t, size)
            picture += cover[..., None] * (_placed_texture(shape, t, size) - picture)
            visible[:s, t] &= cover <= 0.5
            visible[s, t] = cover > 0.5
        frames[t] = np.round(picture)
    return frames, visible


def coverage(shape: Shape, t: int, size: int) -> np.ndarray:
    """How much of each pixel a shape covers in frame t: `(size, size)` float32 in [0, 1]."""
    cos, sin = np.cos(shape.angles[t]), np.sin(shape.angles[t])
    turn = np.array([[cos, -sin], [sin, cos]])
    fine = np.zeros((size * FINE, size * FINE), dtype=np.uint8)
    # cv2 counts from the middle of the first pixel.
    corners = [
        ((o @ turn.T * shape.radius + shape.path[t]) * size * FINE - 0.5) * 2**SUBPIXEL_BITS
        for o in OUTLINES[shape.kind]
    ]
    cv2.fillPoly(fine, [np.round(c).astype(np.int32) for c in corners], 255, shift=SUBPIXEL_BITS)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def random_texture(
    rng: np.random.Generator, size: int, saturation: tuple[float, float], grain: float, hues: tuple[float, float]
) -> np.ndarray:
    """Two colours, one dark and one light, in stripes, checks, dots or clouds, with grain: `(size, size, 3)` uint8 RGB.

    `hues` are the least and the greatest, in degrees on the colour circle.
    """
    values = rng.uniform((0.3, 0.75), (0.6, 1.0))
    hsv = [[rng.uniform(*hues) % 360, rng.uniform(*saturation), v] for v in rng.permutation(values)]
    pixels = np.array([hsv], dtype=np.float32)
    first, second = cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB)[0] * 255
    y, x = np.mgrid[0:size, 0:size] / size
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 7)
    u = count * (np.cos(angle) * x + np.sin(angle) * y)
    v = count * (np.cos(angle) * y - np.sin(angle) * x)
    pattern = int(rng.integers(4))
    if pattern == 0:
        share = 0.5 + 0.5 * np.sin(2 * np.pi * u)
    elif pattern == 1:
        share = ((np.floor(u) + np.floor(v)) % 2).astype(np.float64)
    elif pattern == 2:
        share = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09).astype(np.float64)
    else:
        clouds = rng.random((6, 6)).astype(np.float32)
        share = np.clip(cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1).astype(np.float64)
    colour = first + share[..., None] * (second - first) + rng.normal(0, grain, (size, size, 1))
    return np.clip(np.round(colour), 0, 255).astype(np.uint8)


def _hues(kind: int, count: int) -> tuple[float, float]:
    """The middle two thirds of a kind's share of the colour circle, degrees."""
    share = 360 / count
    return (kind - 1 / 3) * share + 360, (kind + 1 / 3) * share + 360


def _random_path(rng: np.random.Generator, radius: float, num_frames: int) -> np.ndarray:
    low, span = radius, 1 - 2 * radius
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.12)
    step = speed * np.array([np.cos(direction), np.sin(direction)])
    straight = rng.uniform(0, span, size=2) + step * np.arange(num_frames)[:, None]
    return low + span - np.abs(straight % (2 * span) - span)


def _placed_texture(shape: Shape, t: int, size: int) -> np.ndarray:
    """The texture where the shape is in frame t: `(size, size, 3)` float32."""
    scale = TILE / (2 * shape.radius * size)
    cos, sin = scale * np.cos(shape.angles[t]), scale * np.sin(shape.angles[t])
    x, y = shape.path[t] * size
    back = np.array([[cos, sin, TILE / 2 - cos * x - sin * y], [-sin, cos, TILE / 2 + sin * x - cos * y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(shape.texture, back, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101).astype(
        np.float32
    )


def _polygon(corners: int, *radii: float) -> np.ndarray:
    """`(corners, 2)` around the origin, the radii taken in turn."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.resize(np.array(radii), corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


_ARM = np.array([[1.0, 0.32], [0.32, 0.32], [0.32, 1.0]])
# Closed outlines of about the same area in units of the radius; a second outline cuts a hole.
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_polygon(64, 0.85),),
    "square": (_polygon(4, 1.06),),
    "triangle": (_polygon(3, 1.2),),
    "star": (_polygon(10, 1.2, 0.52),),
    "cross": (np.concatenate([_ARM @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]),),
    "ring": (_polygon(64, 1.0), _polygon(64, 0.55)),
}
