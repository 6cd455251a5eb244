"""A tiny AVSBench on disk."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import soundfile
import torch

from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.datasets.palette import to_colours

SPLITS = {"train": 3, "val": 1, "test": 2}
RATE = 16_000


def write_avsbench(root, subset="s4", clips=SPLITS, size=(20, 28), num_frames=5, log_mel=True, seed=0):
    """Write `root/Single-source` or `root/Multi-sources` with random pictures, boxes as masks and a tone each.

    Args:
        root: what `data_root` names.
        subset: 's4' or 'ms3'.
        clips: how many of each split; clip i of a split is called `{split}_{i}`, of category `cat_{i % 2}`.
        size: `(h, w)` of frames and masks, pixels.
        num_frames: frames and seconds.
        log_mel: whether to write log-mel files, or the names of the clips that have one; each is of its wav.
        seed: of the random numbers.
    """
    folder = Path(root) / {"s4": "Single-source", "ms3": "Multi-sources"}[subset]
    data, rng = folder / f"{subset}_data", np.random.default_rng(seed)
    rows = ["name,start,category,split" if subset == "s4" else "name,split"]
    for split, count in clips.items():
        for i in range(count):
            name, category = f"{split}_{i}", f"cat_{i % 2}"
            rows.append(f"{name},0,{category},{split}" if subset == "s4" else f"{name},{split}")
            inner = Path(split, category) if subset == "s4" else Path(split)
            pictures = inner / name if subset == "s4" else Path(name)
            stem = name if subset == "s4" else f"{name}.mp4"
            for t in range(1, num_frames + 1):
                write_png(data / "visual_frames" / pictures / f"{stem}_{t}.png", rng.integers(0, 256, (*size, 3)))
                if (subset, split) != ("s4", "train") or t == 1:
                    write_png(data / "gt_masks" / inner / name / f"{name}_{t}.png", box(size, rng) * 255)
            wave = tone(200.0 * (i + 1) + 50 * len(split), num_frames)
            write_wav(data / "audio_wav" / inner / f"{name}.wav", wave)
            if log_mel if isinstance(log_mel, bool) else name in log_mel:
                write_pickle(data / "audio_log_mel" / inner / f"{name}.pkl", log_mel_patches(wave, RATE))
    (folder / f"{subset}_meta_data.csv").write_text("\n".join(rows) + "\n")
    return Path(root)


AVSS_CLASSES = ("background", "cat", "dog", "violin", "drum")


def write_avss(root, clips=SPLITS, size=(20, 28), parts=("v1s", "v1m", "v2"), masks="labels_semantic", nested=False):
    """Write `root/AVSS`: for each split and part the clips `{split}_{part}_{i}`, in random pictures and boxes.

    Args:
        root: what `data_root` names.
        clips: how many of each split and part.
        size: `(h, w)` of frames and masks, pixels.
        parts: of 'v1s', 'v1m', 'v2'.
        masks: 'labels_semantic' or 'labels_rgb'.
        nested: whether the folder of a part holds another one of its name.
    """
    folder, rng = Path(root) / "AVSS", np.random.default_rng(0)
    rows = ["vid,uid,s_min,s_sec,a_obj,split,label"]
    for split, count in clips.items():
        for part in parts:
            for i in range(count):
                name, frames = f"{split}_{part}_{i}", 10 if part == "v2" else 5
                rows.append(f'abc,{name},0,3,"cat, dog",{split},{part}')
                place = folder / part / (part if nested else "") / name
                for t in range(frames):
                    write_png(place / "frames" / f"{t}.jpg", rng.integers(0, 256, (*size, 3)))
                    if t == 0 or (split, part) != ("train", "v1s"):
                        mask = box(size, rng) * rng.integers(1, len(AVSS_CLASSES), dtype=np.uint8)
                        mask = mask if masks == "labels_semantic" else to_colours(mask)
                        write_png(place / masks / f"{t}.png", mask)
                write_wav(place / "audio.wav", tone(200.0 * (i + 1) + frames, frames))
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    (folder / "label2idx.json").write_text(json.dumps({name: i for i, name in enumerate(AVSS_CLASSES)}))
    return Path(root)


def box(size, rng):
    """A mask `(h, w)` of one rectangle."""
    mask = np.zeros(size, dtype=np.uint8)
    top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    mask[top : top + size[0] // 3, left : left + size[1] // 3] = 1
    return mask


def tone(hertz, seconds):
    """A sine at 16 kHz, `(samples,)`, as 16 bits would hold it."""
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    return np.round(wave * 32768) / 32768


def write_png(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1] if picture.ndim == 3 else picture, np.uint8))


def write_wav(path, wave, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


def write_pickle(path, value, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))


def random_patches(count, seed=0):
    return torch.randn(count, 1, 96, 64, generator=torch.Generator().manual_seed(seed))
