"""Pack a data set of AVSBench's layout into shards."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors

from avsmamba.datasets.avsbench import AVSBench, AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.avss import AVSBenchAVSS
from avsmamba.datasets.clip_table import SPLITS, Clip
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.datasets.readers import attempt, checked_patches, read_content, read_pickled_tensor, read_wav
from avsmamba.datasets.shards.write import Files, array_bytes, jobs_of, write_shards
from avsmamba.datasets.transforms import Resize
from avsmamba.utils import UserError

DATA_SETS: dict[str, type[AVSBench]] = {"s4": AVSBenchS4, "ms3": AVSBenchMS3, "avss": AVSBenchAVSS}


@dataclass(frozen=True)
class Settings:
    """How frames and sounds are stored.

    Attributes:
        frames: 'keep' (the bytes of the files), 'png' (lossless) or 'jpg'.
        size: pixels, see `Resize`; None: the frames' own.
        shorter_side: see `Resize`.
        quality: of JPEG, 1 to 100.
        wav: whether waveforms are stored beside the log-mel patches.
    """

    frames: str = "keep"
    size: int | None = None
    shorter_side: bool = False
    quality: int = 95
    wav: bool = True

    def __post_init__(self) -> None:
        if self.frames == "keep" and self.size:
            raise UserError("--size: expected --format png or jpg with it: resized frames are encoded again")
        if self.size is not None and self.size < 1:
            raise UserError(f"--size: expected at least 1, got {self.size}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality: expected 1 to 100, got {self.quality}")


class Packer:
    """Callable that returns the files of a clip; it is sent to the processes that write.

    Args:
        data_root: see `AVSBench`.
        subset: 's4', 'ms3' or 'avss'.
        settings: see `Settings`.
    """

    def __init__(self, data_root: str, subset: str, settings: Settings):
        self.data_root, self.subset, self.settings = data_root, subset, settings
        self._data_sets: dict[str, AVSBench] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data_sets": {}}

    def data_set(self, split: str) -> AVSBench:
        """Return the data set of a split, the sound and the masks as the files have them."""
        if split not in self._data_sets:
            self._data_sets[split] = DATA_SETS[self.subset](self.data_root, split)
        return self._data_sets[split]

    def __call__(self, split: str, index: int) -> Files:
        torch.set_num_threads(1)
        dataset, settings = self.data_set(split), self.settings
        clip, faults = dataset.clips[index], list[str]()
        frames, masks = dataset.read_pictures(clip, faults)
        sound = attempt(faults, sound_files, dataset, clip, settings.wav) or {}
        if faults:
            raise UserError(f"{faults[0]}{f' (and {len(faults) - 1} more)' if len(faults) > 1 else ''}")
        clip = dataset._with_kinds(clip) if isinstance(dataset, AVSBenchAVSS) and not clip.sounding else clip
        if settings.size:
            frames, masks = self._resized(frames, masks, split == "train")
        pictures: dict[str, bytes] = {}
        for t, (frame, path) in enumerate(zip(frames, dataset.frame_paths(clip), strict=True)):
            suffix = path.suffix.lower() if settings.frames == "keep" else f".{settings.frames}"
            keep = settings.frames == "keep"
            pictures[f"frame_{t:02d}{suffix}"] = (
                read_content(path, "a picture") if keep else self._encoded(frame, suffix)
            )
        pictures |= mask_files(masks, self.subset)
        return clip, sound, pictures

    def _resized(self, frames: list[Any], masks: list[Any], with_masks: bool) -> tuple[list[Any], list[Any]]:
        """Resize frames, in training masks too, as the transform does; in testing masks keep their size."""
        assert self.settings.size is not None
        resize = Resize(self.settings.size, self.settings.shorter_side)
        clip = {"frames": tv_tensors.Video(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))}
        if with_masks:
            clip["gt_masks"] = tv_tensors.Mask(torch.from_numpy(np.stack(masks)))
        clip = resize(clip)
        frames = [*clip["frames"].permute(0, 2, 3, 1).contiguous().numpy()]
        return frames, [*clip["gt_masks"].numpy()] if with_masks else masks

    def _encoded(self, frame: np.ndarray, suffix: str) -> bytes:
        return encode(
            frame[..., ::-1], suffix, [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality] if suffix == ".jpg" else []
        )


def pack(
    data_root: str | Path,
    subset: str,
    out: str | Path,
    settings: Settings | None = None,
    per_shard: int = 500,
    workers: int = 0,
    progress: bool = False,
) -> Path:
    """Pack all splits of a subset.

    Args:
        data_root: folder with `Single-source/`, `Multi-sources/` or `AVSS/`.
        subset: 's4', 'ms3' or 'avss'.
        out: new folder, or that of an interrupted run with the same options, which is continued.
        settings: see `Settings`.
        per_shard: clips in a shard.
        workers: processes.
        progress: show a bar on stderr.

    Returns:
        The path of the index.

    Raises:
        UserError: if there are no clips, one of them is faulty, or `out` holds something else.
    """
    settings = settings or Settings()
    packer = Packer(str(data_root), subset, settings)
    counts: dict[str, int] = {}
    problems: list[str] = []
    for split in SPLITS:
        if (dataset := attempt(problems, packer.data_set, split)) is not None:
            counts[split] = len(dataset)
    if not counts:
        raise UserError(problems[0])
    if unexpected := [p for p in problems if "found none" not in p]:
        raise UserError(unexpected[0])
    about = {
        "subset": subset,
        "kind": "frames",
        "classes": packer.data_set(next(iter(counts))).classes(),
        "settings": asdict(settings),
    }
    return write_shards(out, jobs_of(counts, per_shard), about, packer, workers, progress)


def sound_files(dataset: AVSBench, clip: Clip, with_wav: bool) -> dict[str, bytes]:
    """Return the log-mel patches of a clip, of its file or else of its wav, and its wav if there is one.

    Raises:
        UserError: if there is neither, or one is faulty.
    """
    path, wav = dataset.log_mel_path(clip), dataset.wav_path(clip)
    if path is not None and path.is_file():
        patches = checked_patches(read_pickled_tensor(path), path, dataset.existing_frames(clip))
    else:
        patches = log_mel_patches(*read_wav(wav))
    files = {"log_mel.npy": array_bytes(patches.numpy())}
    if with_wav and wav.is_file():
        read_wav(wav)
        files["wav"] = read_content(wav, "a wav")
    return files


def mask_files(masks: list[Any], subset: str) -> dict[str, bytes]:
    """Return masks as grey PNG files: 0 and 255, of AVSS class indices."""
    factor = 1 if subset == "avss" else 255
    return {f"mask_{t:02d}.png": encode(mask * np.uint8(factor), ".png") for t, mask in enumerate(masks)}


def encode(picture: np.ndarray, suffix: str, options: list[int] | None = None) -> bytes:
    """Encode a picture, `(h, w)` or `(h, w, 3)` BGR."""
    done, content = cv2.imencode(suffix, np.ascontiguousarray(picture), options or [])
    assert done
    return content.tobytes()
