"""Sounds of SoundingShapes: timbres, the seconds in which each shape sounds, and the waveform of a clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from avsmamba.choices import SUBSETS
from avsmamba.datasets.clip_table import PARTS, SPLITS
from avsmamba.datasets.log_mel import SAMPLE_RATE

NUM_FRAMES = 5  # one per second; part v2 of AVSS has 10


@dataclass(frozen=True)
class Timbre:
    """Parameters of a synthesized sound.

    Attributes:
        fundamental: Hz.
        harmonics: amplitude of each multiple of the fundamental, from the first.
        rate: pulses per second; 0: steady.
        decay: of a pulse, 1/s; 0: a smooth rise and fall.
        vibrato: (Hz, depth as a share of the fundamental).
    """

    fundamental: float
    harmonics: tuple[float, ...]
    rate: float = 0.0
    decay: float = 0.0
    vibrato: tuple[float, float] = (0.0, 0.0)


TIMBRES = {
    "circle": Timbre(440.0, (1.0, 0.1), vibrato=(5.0, 0.015)),
    "square": Timbre(294.0, (1.0, 0.0, 0.6, 0.0, 0.4, 0.0, 0.3)),
    "triangle": Timbre(1175.0, (1.0, 0.0, 0.2), rate=4.0, decay=9.0),
    "star": Timbre(1760.0, (1.0, 0.3), vibrato=(7.0, 0.06)),
    "cross": Timbre(117.0, tuple(0.85**i for i in range(14)), rate=9.0),
    "ring": Timbre(587.0, (0.3, 1.0, 0.2, 0.8, 0.2, 0.5), rate=2.5),
}
KINDS = tuple(TIMBRES)
# Names of the timbres. In AVSS a kind sounds with its own timbre or the next kind's, and a class is a pair of kind and
# timbre. No scene shows two kinds that share a timbre, so a class follows from sound and shapes together, but not from
# one of them alone.
VOICES = dict(zip(KINDS, ("flute", "reed", "bell", "siren", "motor", "organ"), strict=True))


def voices_of(kind: str) -> tuple[str, str]:
    """Return the keys in TIMBRES of the two timbres of a kind in AVSS."""
    return kind, KINDS[(KINDS.index(kind) + 1) % len(KINDS)]


def class_name(kind: str, voice: str) -> str:
    """Return the class of a kind and a key in TIMBRES, such as `circle-reed`."""
    return f"{kind}-{VOICES[voice]}"


CLASSES = ("background", *(class_name(kind, voice) for kind in KINDS for voice in voices_of(kind)))


@dataclass(frozen=True)
class ClipSpec:
    """One clip to generate: the pictures of `pair`, with sound number `variant` of that pair."""

    subset: str
    split: str
    pair: int
    variant: int
    size: int
    seed: int
    colours: str = "kind"
    difficulty: str = "plain"

    @property
    def part(self) -> str:
        """In AVSS v1s, v1m or v2, alternating between pairs; else the subset."""
        return PARTS[self.pair % len(PARTS)] if self.subset == "avss" else self.subset

    @property
    def num_frames(self) -> int:
        """Frames and seconds."""
        return 10 if self.part == "v2" else NUM_FRAMES

    def rng(self, *more: int) -> np.random.Generator:
        """Return the generator of the clip's pictures, or with `more` of something else."""
        key = (self.seed, SUBSETS.index(self.subset), SPLITS.index(self.split), self.pair, *more)
        return np.random.default_rng(np.random.SeedSequence(key))


def plan_sounds(clip: ClipSpec, count: int) -> np.ndarray:
    """Return the seconds in which each shape sounds, `(count, T)` bool, different for the two variants of a pair.

    In S4 and in part v1s of AVSS one shape sounds all the time, else one or two do, on and off. Shapes are in random
    order already: the first ones are the sources of variant 0, the last ones those of variant 1, and at least one shape
    is silent.
    """
    pictures = clip.rng(1)
    steady = clip.part in ("s4", "v1s")
    sources = [1, 1] if steady or count < 3 else [int(n) for n in pictures.integers(1, 3, size=2)]
    chosen = range(sources[0]) if clip.variant == 0 else range(count - sources[1], count)
    activity = np.zeros((count, clip.num_frames), dtype=bool)
    if steady:
        activity[list(chosen)] = True
        return activity
    rng = clip.rng(2, clip.variant)
    for i in chosen:
        activity[i] = random_activity(rng, clip.num_frames)
    if activity.any(axis=0).all() and rng.random() < 0.25:
        activity[:, rng.integers(clip.num_frames)] = False
    for i in chosen:  # every source sounds at least once
        if not activity[i].any():
            activity[i, rng.integers(clip.num_frames)] = True
    return activity


def random_activity(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Draw a Markov chain of on and off, `(seconds,)` bool."""
    states, on = np.zeros(seconds, dtype=bool), rng.random() < 0.75
    for t in range(seconds):
        states[t] = on
        on = rng.random() < (0.75 if on else 0.6)
    return states


def plan_voices(clip: ClipSpec, kinds: Sequence[str]) -> list[str]:
    """Return the key in TIMBRES of each shape's timbre."""
    if clip.subset != "avss":
        return list(kinds)
    choice = clip.rng(4, clip.variant).integers(2, size=len(kinds))
    return [voices_of(kind)[c] for kind, c in zip(kinds, choice, strict=True)]


def mix_sounds(rng: np.random.Generator, voices: Sequence[str], activity: np.ndarray) -> np.ndarray:
    """Return a clip's waveform, `(T * 16000,)` int16 at 16 kHz; half of the clips have faint noise.

    Args:
        rng: source of all random numbers.
        voices: key of each shape's timbre in TIMBRES.
        activity: `(count, T)` bool.
    """
    seconds = activity.shape[1]
    mixed = np.zeros(seconds * SAMPLE_RATE)
    for voice, on in zip(voices, activity, strict=True):
        if on.any():
            mixed += synthesize(TIMBRES[voice], rng, seconds) * rng.uniform(0.5, 1.0) * gate(on)
    hiss = rng.normal(size=len(mixed)) * 10 ** rng.uniform(-4.5, -2.5)
    mixed += hiss * (rng.random() < 0.5)
    return np.round(np.clip(0.25 * mixed, -1.0, 1.0) * 32767).astype(np.int16)


def synthesize(timbre: Timbre, rng: np.random.Generator, seconds: int = NUM_FRAMES, vary: bool = False) -> np.ndarray:
    """Synthesize `(samples,)` of a timbre at RMS 0.5, with random phases and pitch; `vary` draws all parameters."""
    if vary:
        timbre = replace(
            timbre,
            fundamental=timbre.fundamental * rng.uniform(0.9, 1.1),
            harmonics=tuple(a * rng.uniform(0.6, 1.4) for a in timbre.harmonics),
            rate=timbre.rate * rng.uniform(0.8, 1.25),
            decay=timbre.decay * rng.uniform(0.8, 1.25),
        )
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    times, share = timbre.vibrato
    pitch = timbre.fundamental * rng.uniform(0.97, 1.03) * (1 + share * np.sin(2 * np.pi * times * time + rng.random()))
    # Harmonics are powers of one complex wave: a product costs a tenth of a sine.
    first = np.exp(2j * np.pi * np.cumsum(pitch) / SAMPLE_RATE)
    power, wave_ = np.ones_like(first), np.zeros(len(first))
    for amplitude, start in zip(timbre.harmonics, rng.random(len(timbre.harmonics)), strict=True):
        power = power * first
        if amplitude:
            wave_ += (amplitude * np.exp(2j * np.pi * start) * power).imag
    wave_ /= math.sqrt(2 * sum(a * a for a in timbre.harmonics))
    if timbre.rate:
        beat = timbre.rate * rng.uniform(0.95, 1.05) * time + rng.random()
        if timbre.decay:
            wave_ = wave_ * 2 * np.exp(-timbre.decay * (beat % 1) / timbre.rate)
        else:
            wave_ = wave_ * 2 * np.sin(np.pi * beat) ** 2
    return wave_


def gate(on: np.ndarray) -> np.ndarray:
    """Return the gain of each sample: 1 in the seconds that sound, with ramps of 20 ms."""
    ramp = SAMPLE_RATE // 50
    steps = np.repeat(on.astype(np.float64), SAMPLE_RATE)
    padded = np.pad(steps, (ramp // 2, ramp - ramp // 2 - 1), mode="edge")
    total = np.cumsum(np.concatenate([[0.0], padded]))
    return (total[ramp:] - total[:-ramp]) / ramp
