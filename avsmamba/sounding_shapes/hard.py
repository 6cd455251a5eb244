"""SoundingShapes at difficulty 'hard'.

Pictures: two to four shapes of a wider range of sizes, which move and rotate faster and partly cover each other; dim
and pale textures; a cluttered, moving ground; silent shapes of other outlines; uneven, changing light; blur and noise.
One shape in four has a hue of another kind.

Sounds: more variation of pitch, rate, harmonics and loudness; echoes; coloured noise. In one MS3 clip of five a kind
sounds that is off screen and in no mask.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from avsmamba.datasets.log_mel import SAMPLE_RATE
from avsmamba.sounding_shapes.pictures import (
    ANY_HUE,
    CLUTTER_OUTLINES,
    TILE,
    Camera,
    Scene,
    Shape,
    choose_kinds,
    hue_range,
    random_path,
    random_texture,
    separate_paths,
)
from avsmamba.sounding_shapes.sounds import KINDS, TIMBRES, ClipSpec, gate, random_activity, synthesize

RADII = (0.1, 0.26)
ROOM = 0.6  # greatest sum of the radii, so that shapes do not hide each other
SPEEDS = (0.03, 0.3)  # range of speeds, frame sizes per second
TURN = 1.5  # greatest rotation, radians per second
OTHER_HUE = 0.25  # probability of a hue of another kind
OFF_SCREEN = 0.2  # probability of a sound from off screen


def hard_scene(
    rng: np.random.Generator, kinds: Sequence[str], num_frames: int, colours: str = "kind", apart: bool = False
) -> Scene:
    """Draw a hard scene; arguments as `random_scene`. With `apart` there are at most three shapes."""
    chosen = choose_kinds(rng, len(kinds), int(rng.integers(2, 4 if apart else 5)), apart)
    radii = rng.uniform(*RADII, size=len(chosen))
    radii *= min(1.0, ROOM / radii.sum())
    # Shapes may cover each other in part, but not wholly if there is room.
    sums = radii[:, None] + radii
    distances = np.maximum(0.6 * sums, np.maximum(radii[:, None], radii))
    paths = separate_paths(rng, radii, np.arange(num_frames), distances, 1.0, SPEEDS)
    shapes = []
    for kind, radius, path in zip(chosen, radii, paths, strict=True):
        own = colours == "kind" and rng.random() >= OTHER_HUE
        hues = hue_range(kind, len(kinds)) if own else ANY_HUE
        texture = _dim_texture(rng, TILE, (0.4, 1.0), (0.3, 1.0), hues)
        shapes.append(Shape(kinds[kind], float(radius), path, _angles(rng, num_frames), texture))
    clutter = tuple(_clutter(rng, num_frames) for _ in range(rng.integers(0, 5)))
    return Scene(_cluttered_ground(rng), tuple(shapes), clutter, _camera(rng, num_frames))


def hard_mix(
    clip: ClipSpec, kinds: Sequence[str], voices: Sequence[str], activity: np.ndarray
) -> tuple[np.ndarray, list]:
    """Return the clip's waveform, `(T * 16000,)` int16 at 16 kHz, and the kinds that sound off screen.

    Args:
        clip: source of the random numbers.
        kinds: of the visible shapes.
        voices: key of each shape's timbre in TIMBRES.
        activity: `(count, T)` bool.
    """
    rng = clip.rng(3, clip.variant)
    rows, off_screen = [row for row in zip(voices, activity, strict=True) if row[1].any()], []
    absent = [kind for kind in KINDS if kind not in kinds]
    if clip.subset == "ms3" and rng.random() < OFF_SCREEN:
        off_screen.append(absent[rng.integers(len(absent))])
        on = random_activity(rng, clip.num_frames)
        on[rng.integers(clip.num_frames)] = True
        rows.append((off_screen[0], on))
    mixed = np.zeros(clip.num_frames * SAMPLE_RATE)
    for voice, on in rows:
        sound = synthesize(TIMBRES[voice], rng, clip.num_frames, vary=True)
        mixed += sound * 10 ** rng.uniform(-0.6, 0.1) * gate(on)
    mixed = _add_echo(mixed, rng)
    mixed += _coloured_noise(len(mixed), rng) * 10 ** rng.uniform(-4.0, -1.2)
    mixed *= 10 ** rng.uniform(-0.5, 0.2)
    return np.round(np.clip(0.25 * mixed, -1.0, 1.0) * 32767).astype(np.int16), off_screen


def _angles(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    return rng.uniform(0, 2 * np.pi) + rng.uniform(-TURN, TURN) * np.arange(num_frames)


def _dim_texture(
    rng: np.random.Generator,
    size: int,
    saturation: tuple[float, float],
    lightness: tuple[float, float],
    hues: tuple[float, float],
) -> np.ndarray:
    """Draw a texture whose two values of brightness are anywhere in `lightness`, similar or different."""
    light = rng.uniform(*lightness)
    dark = light * rng.uniform(0.25, 0.95)
    return random_texture(rng, size, saturation, rng.uniform(2, 16), hues, ((dark, light), (dark, light)))


def _clutter(rng: np.random.Generator, num_frames: int) -> Shape:
    """Draw a silent shape of an outline of no kind; half of them do not move."""
    names = list(CLUTTER_OUTLINES)
    radius, still = float(rng.uniform(0.06, 0.2)), rng.random() < 0.5
    path = random_path(rng, radius, np.arange(num_frames), (0.0, 0.0) if still else SPEEDS)
    angles = np.full(num_frames, rng.uniform(0, 2 * np.pi)) if still else _angles(rng, num_frames)
    texture = _dim_texture(rng, TILE, (0.1, 1.0), (0.2, 1.0), ANY_HUE)
    return Shape(names[rng.integers(len(names))], radius, path, angles, texture)


def _cluttered_ground(rng: np.random.Generator) -> np.ndarray:
    """Draw a texture under ellipses, rectangles and lines of any colour, `(256, 256, 3)` uint8 RGB."""
    size = 4 * TILE
    ground = _dim_texture(rng, size, (0.0, 0.7), (0.15, 1.0), ANY_HUE)
    for _ in range(rng.integers(0, 16)):
        layer, colour = ground.copy(), tuple(int(c) for c in rng.integers(0, 256, 3))
        place = tuple(int(c) for c in rng.integers(0, size, 2))
        reach = rng.integers(6, 60, 2)
        form = int(rng.integers(3))
        if form == 0:
            cv2.ellipse(layer, place, tuple(int(r) for r in reach), float(rng.uniform(0, 180)), 0, 360, colour, -1)
        elif form == 1:
            cv2.rectangle(layer, place, (place[0] + int(reach[0]), place[1] + int(reach[1])), colour, -1)
        else:
            end = tuple(int(c) for c in rng.integers(0, size, 2))
            cv2.line(layer, place, end, colour, int(rng.integers(1, 12)))
        share = rng.uniform(0.2, 0.8)
        ground = cv2.addWeighted(layer, share, ground, 1 - share, 0)
    return ground


def _camera(rng: np.random.Generator, num_frames: int) -> Camera:
    seconds = np.arange(num_frames)[:, None]
    direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12)
    return Camera(
        pan=rng.uniform(0, 0.5, 2) + speed * np.array([np.cos(direction), np.sin(direction)]) * seconds,
        light=rng.uniform(0.6, 1.25) * (1 + rng.uniform(-0.08, 0.08, num_frames)),
        tint=rng.uniform(0.85, 1.1, 3),
        slope=rng.uniform(-0.3, 0.3, 2),
        blur=float(rng.uniform(0, 0.009)),
        noise=float(rng.uniform(0, 9)),
        seed=int(rng.integers(2**31)),
    )


def _add_echo(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with a room impulse response: noise that decays by 60 dB in 0.1 to 0.4 s."""
    fade = rng.uniform(0.1, 0.4)
    wet = rng.uniform(0.0, 0.5)
    time = np.arange(int(fade * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.normal(size=len(time)) * 10 ** (-3 * time / fade)
    room *= wet / np.sqrt((room**2).sum())
    length = len(wave) + len(room) - 1
    echo = np.fft.irfft(np.fft.rfft(wave, length) * np.fft.rfft(room, length), length)[: len(wave)]
    return (1 - wet) * wave + echo


def _coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw noise between white and brown, RMS 1."""
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 20.0)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=length)) / frequencies ** rng.uniform(0, 1), length)
    return noise / np.sqrt((noise**2).mean())
