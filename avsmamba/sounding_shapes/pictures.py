"""The pictures of SoundingShapes: textured shapes move over a textured ground; and which pixels show which shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

FINE = 4  # shapes are drawn this many times larger, then averaged: smooth edges
SUBPIXEL_BITS = 4  # cv2 takes corners as fixed-point numbers
TILE = 64  # pixels of a texture
ANY_HUE = (0.0, 360.0)
GROUND_SPAN = 1.5  # times the frame's size: how much ground there is for a camera to slide over
VALUES = ((0.3, 0.6), (0.75, 1.0))  # of a texture's dark colour and of its light one
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
class Camera:
    """What a camera makes of a scene.

    Attributes:
        pan: `(T, 2)` how far the ground has slid (x, y), shares of the frame's size.
        light: `(T,)` factors of brightness.
        tint: `(3,)` factors of red, green and blue.
        slope: by how much the light grows from the left to the right and from the top to the bottom.
        blur: standard deviation of the lens's softness, a share of the frame's size.
        noise: standard deviation of the grain, of 255.
        seed: of the grain.
    """

    pan: np.ndarray
    light: np.ndarray
    tint: np.ndarray
    slope: np.ndarray
    blur: float
    noise: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """A ground, `(n, n, 3)` uint8 RGB of any n, and the shapes upon it, the last one on top; below them the clutter."""

    ground: np.ndarray
    shapes: tuple[Shape, ...]
    clutter: tuple[Shape, ...] = ()
    camera: Camera | None = None


def random_scene(
    rng: np.random.Generator,
    kinds: Sequence[str],
    num_frames: int,
    colours: str = "kind",
    apart: bool = False,
    frame_rate: float = 1.0,
) -> Scene:
    """Two or three shapes of different kinds that move on straight lines, turn, and bounce off the frame's border.

    There are `frame_rate` frames a second.

    With `colours` 'kind' each kind keeps to a sixth of the colour circle (for six kinds), with 'any' to none. With
    `apart` no two kinds of a scene are neighbours in `kinds` as a ring, which must then hold six or more.
    """
    count = int(rng.integers(2, 4))
    chosen = choose_kinds(rng, len(kinds), count, apart)
    radii = rng.uniform(0.15, 0.23, size=count)
    times = np.arange(num_frames) / frame_rate
    best, most = np.zeros((count, num_frames, 2)), -np.inf
    for _ in range(40):
        paths = np.stack([random_path(rng, r, times) for r in radii])
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
            rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5) * times,
            random_texture(rng, TILE, (0.55, 1.0), 10, hues_of(kind, len(kinds)) if colours == "kind" else ANY_HUE),
        )
        for kind, radius, path in zip(chosen, radii, best, strict=True)
    )
    return Scene(random_texture(rng, 4 * TILE, (0.0, 0.4), 6, ANY_HUE), shapes)


def choose_kinds(rng: np.random.Generator, kinds: int, count: int, apart: bool) -> np.ndarray:
    """`count` different numbers below `kinds`; with `apart` no two are neighbours in a ring."""
    chosen = rng.permutation(kinds)[:count]
    while apart and any((i - j) % kinds == 1 for i in chosen for j in chosen):
        chosen = rng.permutation(kinds)[:count]
    return chosen


def draw_clip(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw all frames.

    Args:
        scene: what to draw.
        size: height and width, pixels.

    Returns:
        `(T, size, size, 3)` uint8 RGB frames and `(S, T, size, size)` bool: where each of the S shapes is seen.
    """
    num_frames = len(scene.shapes[0].path)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    visible = np.zeros((len(scene.shapes), num_frames, size, size), dtype=bool)
    for t, (frame, seen) in enumerate(draw_frames(scene, size)):
        frames[t], visible[:, t] = frame, seen
    return frames, visible


def draw_frames(scene: Scene, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `draw_clip` draws, one frame after another: `(size, size, 3)` uint8 and `(S, size, size)` bool."""
    across = size if scene.camera is None else round(size * GROUND_SPAN)
    ground = cv2.resize(scene.ground, (across, across), interpolation=cv2.INTER_AREA).astype(np.float32)
    for t in range(len(scene.shapes[0].path)):
        picture = ground.copy() if scene.camera is None else _slid(ground, scene.camera.pan[t], size)
        visible = np.zeros((len(scene.shapes), size, size), dtype=bool)
        for shape in scene.clutter:
            picture += coverage(shape, t, size)[..., None] * (_placed_texture(shape, t, size) - picture)
        for s, shape in enumerate(scene.shapes):
            cover = coverage(shape, t, size)
            picture += cover[..., None] * (_placed_texture(shape, t, size) - picture)
            visible[:s] &= cover <= 0.5
            visible[s] = cover > 0.5
        if scene.camera is not None:
            picture = _filmed(picture, scene.camera, t)
        yield np.round(picture).astype(np.uint8), visible


def _slid(ground: np.ndarray, pan: np.ndarray, size: int) -> np.ndarray:
    shift = np.array([[1.0, 0.0, pan[0] * size], [0.0, 1.0, pan[1] * size]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(ground, shift, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _filmed(picture: np.ndarray, camera: Camera, t: int) -> np.ndarray:
    """`(size, size, 3)` float32 in [0, 255]."""
    size = len(picture)
    if camera.blur * size > 0.1:
        picture = cv2.GaussianBlur(picture, (0, 0), camera.blur * size)
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size - 0.5
    light = camera.light[t] * (1 + camera.slope[0] * x + camera.slope[1] * y)
    grain = np.random.default_rng((camera.seed, t)).normal(0, camera.noise, picture.shape)
    return np.clip(picture * light[..., None] * camera.tint + grain, 0, 255)


def coverage(shape: Shape, t: int, size: int) -> np.ndarray:
    """How much of each pixel a shape covers in frame t: `(size, size)` float32 in [0, 1]."""
    cos, sin = np.cos(shape.angles[t]), np.sin(shape.angles[t])
    turn = np.array([[cos, -sin], [sin, cos]])
    fine = np.zeros((size * FINE, size * FINE), dtype=np.uint8)
    # cv2 counts from the middle of the first pixel.
    corners = [
        ((o @ turn.T * shape.radius + shape.path[t]) * size * FINE - 0.5) * 2**SUBPIXEL_BITS
        for o in (OUTLINES | CLUTTER_OUTLINES)[shape.kind]
    ]
    cv2.fillPoly(fine, [np.round(c).astype(np.int32) for c in corners], 255, shift=SUBPIXEL_BITS)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def random_texture(
    rng: np.random.Generator,
    size: int,
    saturation: tuple[float, float],
    grain: float,
    hues: tuple[float, float],
    values: tuple[tuple[float, float], tuple[float, float]] = VALUES,
) -> np.ndarray:
    """Two colours, one dark and one light, in stripes, checks, dots or clouds, with grain: `(size, size, 3)` uint8 RGB.

    `hues` are the least and the greatest, in degrees on the colour circle; `values` those of the dark colour's
    brightness and of the light one's, up to 1.
    """
    drawn = rng.uniform(*np.transpose(values))
    hsv = [[rng.uniform(*hues) % 360, rng.uniform(*saturation), v] for v in rng.permutation(drawn)]
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


def hues_of(kind: int, count: int) -> tuple[float, float]:
    """The middle two thirds of a kind's share of the colour circle, degrees."""
    share = 360 / count
    return (kind - 1 / 3) * share + 360, (kind + 1 / 3) * share + 360


def random_path(
    rng: np.random.Generator, radius: float, times: np.ndarray, speeds: tuple[float, float] = (0.03, 0.12)
) -> np.ndarray:
    """Centres (x, y) at these times (s) of what keeps its radius away from the frame's border: `(T, 2)`.

    `speeds` are the least and the greatest, in shares of the frame's size a second.
    """
    low, span = radius, 1 - 2 * radius
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*speeds)
    step = speed * np.array([np.cos(direction), np.sin(direction)])
    straight = rng.uniform(0, span, size=2) + step * times[:, None]
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
# Of what never sounds.
CLUTTER_OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "bar": (np.array([[1.1, 0.3], [-1.1, 0.3], [-1.1, -0.3], [1.1, -0.3]]),),
    "corner": (np.array([[-0.9, -0.9], [-0.2, -0.9], [-0.2, 0.2], [0.9, 0.2], [0.9, 0.9], [-0.9, 0.9]]),),
    "hourglass": (np.array([[-0.9, -1.0], [0.9, -1.0], [0.15, 0.0], [0.9, 1.0], [-0.9, 1.0], [-0.15, 0.0]]),),
    "crescent": (np.concatenate([_polygon(64, 1.0)[8:57], (_polygon(64, 0.75) + [0.45, 0.0])[55:9:-1]]),),
    "lens": (_polygon(64, 1.1) * [1.0, 0.45],),
}
