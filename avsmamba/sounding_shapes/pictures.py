"""Frames of SoundingShapes, textured shapes that move over a textured ground, and the visible pixels of each shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

FINE = 4  # supersampling factor of the shapes, for smooth edges
SUBPIXEL_BITS = 4  # of cv2's fixed-point corners
TILE = 64  # pixels of a texture
ANY_HUE = (0.0, 360.0)
GROUND_SPAN = 1.5  # size of the ground, over which a camera pans, in frame sizes
VALUES = ((0.3, 0.6), (0.75, 1.0))  # ranges of brightness of a texture's dark and light colour
APART = 0.85  # intended least distance of two centres, in sums of their radii
SLOW = (0.03, 0.12)  # range of speeds, frame sizes per second


@dataclass(frozen=True)
class Shape:
    """One shape of a scene; lengths are in frame sizes.

    Attributes:
        kind: name of the outline.
        radius: of the outline's unit circle.
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
    """Camera effects.

    Attributes:
        pan: `(T, 2)` offsets of the ground (x, y), in frame sizes.
        light: `(T,)` factors of brightness.
        tint: `(3,)` factors of red, green and blue.
        slope: `(2,)` increase of the light from left to right and from top to bottom.
        blur: standard deviation of the Gaussian blur, in frame sizes.
        noise: standard deviation of the noise, grey levels of 255.
        seed: of the noise.
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
    """A ground, `(n, n, 3)` uint8 RGB of any n, under the clutter, under the shapes; the last shape is on top."""

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
    """Draw a scene of two or three shapes of different kinds that move straight, rotate and bounce off the border.

    Args:
        rng: source of all random numbers.
        kinds: names of the outlines to choose from.
        num_frames: T.
        colours: 'kind' (each kind has its share of the colour circle) or 'any'.
        apart: whether no two chosen kinds are neighbours in `kinds`, taken as a ring of six or more.
        frame_rate: frames per second.
    """
    count = int(rng.integers(2, 4))
    chosen = choose_kinds(rng, len(kinds), count, apart)
    radii = rng.uniform(0.15, 0.23, size=count)
    times = np.arange(num_frames) / frame_rate
    paths = separate_paths(rng, radii, times, radii[:, None] + radii, APART)
    shapes = tuple(
        Shape(
            kinds[kind],
            float(radius),
            path,
            rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5) * times,
            random_texture(rng, TILE, (0.55, 1.0), 10, hue_range(kind, len(kinds)) if colours == "kind" else ANY_HUE),
        )
        for kind, radius, path in zip(chosen, radii, paths, strict=True)
    )
    return Scene(random_texture(rng, 4 * TILE, (0.0, 0.4), 6, ANY_HUE), shapes)


def choose_kinds(rng: np.random.Generator, kinds: int, count: int, apart: bool) -> np.ndarray:
    """Draw `count` different numbers below `kinds`; with `apart` no two are neighbours in a ring."""
    chosen = rng.permutation(kinds)[:count]
    while apart and any((i - j) % kinds == 1 for i in chosen for j in chosen):
        chosen = rng.permutation(kinds)[:count]
    return chosen


def draw_clip(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render all frames.

    Args:
        scene: to render.
        size: height and width, pixels.

    Returns:
        `(T, size, size, 3)` uint8 RGB frames and `(S, T, size, size)` bool visible pixels of the S shapes.
    """
    num_frames = len(scene.shapes[0].path)
    frames = np.empty((num_frames, size, size, 3), dtype=np.uint8)
    visible = np.zeros((len(scene.shapes), num_frames, size, size), dtype=bool)
    for t, (frame, seen) in enumerate(draw_frames(scene, size)):
        frames[t], visible[:, t] = frame, seen
    return frames, visible


def draw_frames(scene: Scene, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the frames of `draw_clip` one by one: `(size, size, 3)` uint8 and `(S, size, size)` bool."""
    across = size if scene.camera is None else round(size * GROUND_SPAN)
    ground = cv2.resize(scene.ground, (across, across), interpolation=cv2.INTER_AREA).astype(np.float32)
    for t in range(len(scene.shapes[0].path)):
        picture = ground.copy() if scene.camera is None else _pan(ground, scene.camera.pan[t], size)
        visible = np.zeros((len(scene.shapes), size, size), dtype=bool)
        for shape in scene.clutter:
            picture += coverage(shape, t, size)[..., None] * (_warp_texture(shape, t, size) - picture)
        for s, shape in enumerate(scene.shapes):
            cover = coverage(shape, t, size)
            picture += cover[..., None] * (_warp_texture(shape, t, size) - picture)
            visible[:s] &= cover <= 0.5
            visible[s] = cover > 0.5
        if scene.camera is not None:
            picture = _apply_camera(picture, scene.camera, t)
        yield np.round(picture).astype(np.uint8), visible


def _pan(ground: np.ndarray, pan: np.ndarray, size: int) -> np.ndarray:
    shift = np.array([[1.0, 0.0, pan[0] * size], [0.0, 1.0, pan[1] * size]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(ground, shift, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _apply_camera(picture: np.ndarray, camera: Camera, t: int) -> np.ndarray:
    """Add blur, light and noise to a `(size, size, 3)` picture in [0, 255]."""
    size = len(picture)
    if camera.blur * size > 0.1:
        picture = cv2.GaussianBlur(picture, (0, 0), camera.blur * size)
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size - 0.5
    light = camera.light[t] * (1 + camera.slope[0] * x + camera.slope[1] * y)
    grain = np.random.default_rng((camera.seed, t)).normal(0, camera.noise, picture.shape)
    return np.clip(picture * light[..., None] * camera.tint + grain, 0, 255)


def coverage(shape: Shape, t: int, size: int) -> np.ndarray:
    """Return the share of each pixel that a shape covers in frame t, `(size, size)` float32 in [0, 1]."""
    cos, sin = np.cos(shape.angles[t]), np.sin(shape.angles[t])
    turn = np.array([[cos, -sin], [sin, cos]])
    fine = np.zeros((size * FINE, size * FINE), dtype=np.uint8)
    # cv2's origin is the centre of the first pixel.
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
    """Draw stripes, checks, dots or clouds of a dark and a light colour, with noise: `(size, size, 3)` uint8 RGB.

    Args:
        rng: source of all random numbers.
        size: pixels.
        saturation: range, up to 1.
        grain: standard deviation of the noise, grey levels of 255.
        hues: range, degrees on the colour circle.
        values: ranges of the dark colour's brightness and the light one's, up to 1.
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


def hue_range(kind: int, count: int) -> tuple[float, float]:
    """Return the middle two thirds of a kind's share of the colour circle, degrees."""
    share = 360 / count
    return (kind - 1 / 3) * share + 360, (kind + 1 / 3) * share + 360


def separate_paths(
    rng: np.random.Generator,
    radii: np.ndarray,
    times: np.ndarray,
    distances: np.ndarray,
    share: float,
    speeds: tuple[float, float] = SLOW,
) -> np.ndarray:
    """Draw `(S, T, 2)` paths until all pairs keep a share of their `(S, S)` distances; after 40 draws take the best."""
    best, most = np.zeros((len(radii), len(times), 2)), -np.inf
    for _ in range(40):
        paths = np.stack([random_path(rng, r, times, speeds) for r in radii])
        least = min(
            np.linalg.norm(paths[i] - paths[j], axis=-1).min() / distances[i, j]
            for i in range(len(radii))
            for j in range(i)
        )
        if least > most:
            best, most = paths, least
        if most > share:
            break
    return best


def random_path(
    rng: np.random.Generator, radius: float, times: np.ndarray, speeds: tuple[float, float] = SLOW
) -> np.ndarray:
    """Draw a `(T, 2)` path (x, y) at these times (s) that bounces off the border at a distance of `radius`."""
    low, span = radius, 1 - 2 * radius
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*speeds)
    step = speed * np.array([np.cos(direction), np.sin(direction)])
    straight = rng.uniform(0, span, size=2) + step * times[:, None]
    return low + span - np.abs(straight % (2 * span) - span)


def _warp_texture(shape: Shape, t: int, size: int) -> np.ndarray:
    """Return the texture at the shape's place and angle in frame t, `(size, size, 3)` float32."""
    scale = TILE / (2 * shape.radius * size)
    cos, sin = scale * np.cos(shape.angles[t]), scale * np.sin(shape.angles[t])
    x, y = shape.path[t] * size
    back = np.array([[cos, sin, TILE / 2 - cos * x - sin * y], [-sin, cos, TILE / 2 + sin * x - cos * y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(shape.texture, back, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101).astype(
        np.float32
    )


def _polygon(corners: int, *radii: float) -> np.ndarray:
    """Return `(corners, 2)` around the origin; the radii alternate."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.resize(np.array(radii), corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


_ARM = np.array([[1.0, 0.32], [0.32, 0.32], [0.32, 1.0]])
# Closed outlines of about the same area, in radii; a second outline is a hole.
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_polygon(64, 0.85),),
    "square": (_polygon(4, 1.06),),
    "triangle": (_polygon(3, 1.2),),
    "star": (_polygon(10, 1.2, 0.52),),
    "cross": (np.concatenate([_ARM @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]),),
    "ring": (_polygon(64, 1.0), _polygon(64, 0.55)),
}
# Of shapes that never sound.
CLUTTER_OUTLINES: dict[str, tuple[np.ndarray, ...]] = {
    "bar": (np.array([[1.1, 0.3], [-1.1, 0.3], [-1.1, -0.3], [1.1, -0.3]]),),
    "corner": (np.array([[-0.9, -0.9], [-0.2, -0.9], [-0.2, 0.2], [0.9, 0.2], [0.9, 0.9], [-0.9, 0.9]]),),
    "hourglass": (np.array([[-0.9, -1.0], [0.9, -1.0], [0.15, 0.0], [0.9, 1.0], [-0.9, 1.0], [-0.15, 0.0]]),),
    "crescent": (np.concatenate([_polygon(64, 1.0)[8:57], (_polygon(64, 0.75) + [0.45, 0.0])[55:9:-1]]),),
    "lens": (_polygon(64, 1.1) * [1.0, 0.45],),
}
