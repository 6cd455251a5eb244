"""`avsmamba sample`: a clip to try a model on, and the masks that would be right."""

import re
import shutil
import tempfile
import wave
from pathlib import Path

import cv2
import numpy as np
import torch

from avsmamba.datasets.log_mel import SAMPLE_RATE
from avsmamba.datasets.readers import read_mask
from avsmamba.evaluation.scores import clip_scores, frame_protocol
from avsmamba.sounding_shapes.pictures import Scene, draw_frames, random_scene
from avsmamba.sounding_shapes.sounds import KINDS, mix, walk
from avsmamba.utils import UserError
from avsmamba.video import VideoWriter, join

NAME = "sample"
MASKS = f"{NAME}_masks"
SECONDS, FRAME_RATE, SIZE = 10, 25, 320
SCENES = 20  # drawn, to choose the clearest
_NUMBERED = re.compile(r"(?P<stem>.+)_(?P<number>\d+)\.png")


def make_sample(folder: str | Path, seed: int = 0) -> Path:
    """Write `sample.mp4` and `sample_masks/sample_{1..10}.png` into a folder.

    The clip has 320 x 320 pixels, 25 pictures a second and sound (H.264 and AAC), and is one of SoundingShapes but for
    its length and its smooth motion: three shapes, two of which sound on and off, from second to second. Mask k + 1 is
    of the picture at k seconds and of what sounds from there on for a second: the masks of AVSBench, 0 and 255. The
    same seed gives the same masks and, with the same libraries, the same clip.

    Args:
        folder: made if it is not there; what an earlier call wrote is replaced.
        seed: of everything that is drawn.

    Returns:
        The path of `sample.mp4`.

    Raises:
        UserError: if the seed is negative, or `sample_masks/` holds something else or cannot be written.
    """
    if seed < 0:
        raise UserError(f"seed: expected a number that is not negative, got {seed}")
    folder = Path(folder)
    masks = folder / MASKS
    names = {f"{NAME}_{k + 1}.png" for k in range(SECONDS)}
    if masks.exists() and (not masks.is_dir() or {path.name for path in masks.iterdir()} - names):
        raise UserError(f"{masks}: holds more than an earlier sample; choose another folder")
    scene, activity, waveform = plan_sample(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder, prefix=f".{NAME}."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        (work / MASKS).mkdir()
        with VideoWriter(work / "pictures.mp4", SIZE, SIZE, FRAME_RATE) as writer:
            for index, (picture, visible) in enumerate(draw_frames(scene, SIZE)):
                writer.write(picture, index / FRAME_RATE)
                second, rest = divmod(index, FRAME_RATE)
                if not rest:
                    mask = visible[activity[:, second]].any(axis=0).astype(np.uint8) * 255
                    cv2.imwrite(str(work / MASKS / f"{NAME}_{second + 1}.png"), mask)
        with wave.open(str(work / "sound.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(waveform.astype("<i2").tobytes())
        join(work / "pictures.mp4", work / f"{NAME}.mp4", sound=work / "sound.wav")
        shutil.rmtree(masks, ignore_errors=True)
        (work / MASKS).rename(masks)
        return (work / f"{NAME}.mp4").replace(folder / f"{NAME}.mp4")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def plan_sample(seed: int) -> tuple[Scene, np.ndarray, np.ndarray]:
    """The scene (250 frames of three shapes), which of them sound when, `(3, 10)` bool, and the waveform at 16 kHz.

    Of some scenes it is the one in which shapes cover each other least. The first two shapes sound for three seconds or
    more each; in one second or more both do, and in one none does.
    """
    rng = np.random.default_rng((seed, SECONDS))
    scenes = [random_scene(rng, KINDS, SECONDS * FRAME_RATE, frame_rate=FRAME_RATE) for _ in range(SCENES)]
    scene = max(scenes, key=lambda s: (len(s.shapes), _gap(s)))
    while True:
        activity = np.stack([walk(rng, SECONDS), walk(rng, SECONDS), np.zeros(SECONDS, dtype=bool)])
        together = activity.sum(axis=0)
        if activity.sum(axis=1)[:2].min() >= 3 and {0, 1, 2} == set(together):
            break
    return scene, activity, mix(rng, [shape.kind for shape in scene.shapes], activity)


def _gap(scene: Scene) -> float:
    """The least distance of two centres, as a share of the sum of their radii; below 1 the shapes may touch."""
    shapes = scene.shapes
    return min(
        float(np.linalg.norm(a.path - b.path, axis=1).min()) / (a.radius + b.radius)
        for i, a in enumerate(shapes)
        for b in shapes[:i]
    )


def score_masks(predicted: str | Path, truth: str | Path) -> dict[str, float]:
    """M_J and M_F (protocol frame) of a folder of masks against another, as `tools/test.py` computes them.

    Args:
        predicted: folder with `*_1.png`, `*_2.png`, …; the `masks/` of `avsmamba predict` at 1 frame a second. What it
            has beyond the truth does not count.
        truth: folder with as many masks as there are seconds, `sample_masks/` of `make_sample`.

    Returns:
        `M_J`, `M_F` and `frames`, how many masks were compared. A mask has no probabilities: M_F is at its one
        threshold.

    Raises:
        UserError: naming a folder without masks, a mask that is missing, cannot be read or has another size.
    """
    expected, found = _numbered(Path(truth)), _numbered(Path(predicted))
    masks, logits = [], []
    for number, path in expected.items():
        if number not in found:
            raise UserError(f"{predicted}: has no mask number {number}, which {path} is compared with")
        mask, guess = read_mask(path), read_mask(found[number])
        if mask.shape != guess.shape:
            size = f"{mask.shape[1]} x {mask.shape[0]}"
            raise UserError(
                f"{found[number]}: expected {size} pixels as {path}, got {guess.shape[1]} x {guess.shape[0]}"
            )
        masks.append(torch.from_numpy(mask))
        logits.append(torch.from_numpy(np.where(guess, 50.0, -50.0)))
    scored = torch.ones(len(masks), dtype=torch.bool)
    try:
        m_j, m_f = frame_protocol([clip_scores(torch.stack(logits), torch.stack(masks), scored)])
    except RuntimeError:
        raise UserError(f"{truth}: expected masks of one size") from None
    return {"M_J": m_j, "M_F": m_f, "frames": len(masks)}


def _numbered(folder: Path) -> dict[int, Path]:
    """The masks of a folder by their number, in order."""
    matches = [(_NUMBERED.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ())]
    found = {int(match["number"]): path for match, path in matches if match}
    if not found:
        raise UserError(f"{folder}: expected masks NAME_1.png, NAME_2.png, …, found none")
    return dict(sorted(found.items()))
