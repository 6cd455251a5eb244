"""`avsmamba sample`: a sample video with its true masks."""

import re
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import soundfile
import torch

from avsmamba.datasets.log_mel import SAMPLE_RATE
from avsmamba.datasets.readers import read_mask
from avsmamba.evaluation.scores import clip_scores, frame_protocol
from avsmamba.sounding_shapes.pictures import Scene, draw_frames, random_scene
from avsmamba.sounding_shapes.sounds import KINDS, mix_sounds, random_activity
from avsmamba.utils import UserError
from avsmamba.video import VideoWriter, join

NAME = "sample"
MASKS = f"{NAME}_masks"
SECONDS, FRAME_RATE, SIZE = 10, 25, 320
SCENES = 20  # candidates, of which the one with the least overlap is taken
_NUMBERED = re.compile(r"(?P<stem>.+)_(?P<number>\d+)\.png")


def make_sample(folder: str | Path, seed: int = 0) -> Path:
    """Write `sample.mp4` and `sample_masks/sample_{1..10}.png` into a folder.

    The clip has 320 x 320 pixels, 25 frames per second and sound (H.264 and AAC): three shapes, two of which sound on
    and off. Mask k + 1 is of the frame at k seconds and of the shapes that sound in the second that follows, 0 and 255
    as in AVSBench. Equal seeds give equal masks and, with the same libraries, equal clips.

    Args:
        folder: created if missing; files of an earlier call are replaced.
        seed: of all random numbers.

    Returns:
        The path of `sample.mp4`.

    Raises:
        UserError: if the seed is negative, or `sample_masks/` holds other files or cannot be written.
    """
    if seed < 0:
        raise UserError(f"seed: expected a non-negative number, got {seed}")
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
        soundfile.write(work / "sound.wav", waveform, SAMPLE_RATE)
        join(work / "pictures.mp4", work / f"{NAME}.mp4", sound=work / "sound.wav")
        shutil.rmtree(masks, ignore_errors=True)
        (work / MASKS).rename(masks)
        return (work / f"{NAME}.mp4").replace(folder / f"{NAME}.mp4")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def plan_sample(seed: int) -> tuple[Scene, np.ndarray, np.ndarray]:
    """Return a scene (250 frames, three shapes), their activity, `(3, 10)` bool, and the waveform at 16 kHz.

    The first two shapes sound for at least three seconds each; in at least one second both do, and in one none does.
    """
    rng = np.random.default_rng((seed, SECONDS))
    scenes = [random_scene(rng, KINDS, SECONDS * FRAME_RATE, frame_rate=FRAME_RATE) for _ in range(SCENES)]
    scene = max(scenes, key=lambda s: (len(s.shapes), _gap(s)))
    while True:
        sources = [random_activity(rng, SECONDS) for _ in range(2)]
        activity = np.stack([*sources, np.zeros(SECONDS, dtype=bool)])
        together = activity.sum(axis=0)
        if activity.sum(axis=1)[:2].min() >= 3 and {0, 1, 2} == set(together):
            break
    return scene, activity, mix_sounds(rng, [shape.kind for shape in scene.shapes], activity)


def _gap(scene: Scene) -> float:
    """Return the least distance of two centres, in sums of their radii; below 1 the shapes may touch."""
    shapes = scene.shapes
    return min(
        float(np.linalg.norm(a.path - b.path, axis=1).min()) / (a.radius + b.radius)
        for i, a in enumerate(shapes)
        for b in shapes[:i]
    )


def score_masks(predicted: str | Path, truth: str | Path) -> dict[str, float]:
    """Return M_J and M_F (protocol frame) of a folder of masks against another, as `tools/test.py` does.

    Args:
        predicted: folder with `*_1.png`, `*_2.png`, …: `masks/` of `avsmamba predict` at 1 frame per second. Masks
            without a true one are ignored.
        truth: folder of the true masks, `sample_masks/` of `make_sample`.

    Returns:
        `M_J`, `M_F` and `frames`, the number of compared masks. Masks have no probabilities, so M_F has one threshold.

    Raises:
        UserError: naming the folder without masks, or the mask that is missing, unreadable or of another size.
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
    """Return the masks of a folder by number, in order."""
    matches = [(_NUMBERED.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ())]
    found = {int(match["number"]): path for match, path in matches if match}
    if not found:
        raise UserError(f"{folder}: expected masks NAME_1.png, NAME_2.png, …, found none")
    return dict(sorted(found.items()))
