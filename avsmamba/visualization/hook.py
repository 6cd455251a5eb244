"""Write a picture of each clip of a test, and the predicted masks in AVSBench's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy.typing import NDArray

from avsmamba.datasets.palette import to_colours
from avsmamba.limits import AT_LEAST_0, limits
from avsmamba.registry import HOOKS
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError
from avsmamba.visualization.canvas import write_png
from avsmamba.visualization.clip_picture import clip_picture

# Files that a data set's folder holds and one of masks does not.
_DATA_SETS = ("*/*_data/visual_frames", "AVSS/metadata.csv")

_HEARD = {
    "real": "its own sound",
    "silence": "silence",
    "noise": "noise",
    "shuffle": "another clip's sound",
    "swap": "a foreign clip's sound",
}


@HOOKS.register_module()
class VisualizationHook(Hook):
    """Write pictures and masks of a test, clip by clip; each process writes its own clips.

    Pictures are `show_dir/{clip}.png` (MS3), `show_dir/{category}/{clip}.png` (S4) and `show_dir/{part}/{clip}.png`
    (AVSS). Masks are laid out below `out_dir` as AVSBench's are below its root, see `mask_path`, of the labels' size:
    8-bit, 255 where p > 0.5; of AVSS class indices in `labels_semantic` and their colours in `labels_rgb`.

    Args:
        show_dir: folder for pictures, or None.
        out_dir: folder for masks, or None.
        max_pictures: draw only the clips before this place in the data set; None draws all.
    """

    @limits(max_pictures=AT_LEAST_0)
    def __init__(self, show_dir: str | None = None, out_dir: str | None = None, max_pictures: int | None = None):
        self.show_dir = None if show_dir is None else Path(show_dir)
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.max_pictures = max_pictures
        self.classes: Sequence[str] = ()

    def before_test(self, runner: Runner) -> None:
        if runner is not None:
            self.classes = getattr(runner.test_loop.dataloader.dataset, "metainfo", {}).get("classes", ())
        if self.out_dir is not None and any(any(self.out_dir.glob(place)) for place in _DATA_SETS):
            raise UserError(f"--out: {self.out_dir} holds a data set, whose labels the masks would overwrite")
        for folder in (self.show_dir, self.out_dir):
            if folder is not None:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise UserError(f"{folder}: cannot create the folder: {error.strerror}") from None

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: Sequence[AVSDataSample] | None = None,
    ) -> None:
        if data_batch is None or outputs is None:
            return
        for frames, log_mel, sample in zip(data_batch["frames"], data_batch["log_mel"], outputs, strict=True):
            exists = _flags(sample, "vid_temporal_mask_flag")
            if self.out_dir is not None:
                for index in np.flatnonzero(exists):
                    write_masks(self.out_dir, sample, int(index))
            if self.show_dir is not None and (self.max_pictures is None or sample.clip_index < self.max_pictures):
                picture = sample_picture(frames, log_mel, sample, self.classes)
                write_png(self.show_dir / picture_path(sample), picture, frame_size=list(frames.shape[-2:]))


def sample_picture(frames: Any, log_mel: Any, sample: AVSDataSample, classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a clip with `clip_picture`; frames `(T, 3, H, W)`, log-mel `(T, 1, 96, 64)`, a sample with predictions."""
    exists = _flags(sample, "vid_temporal_mask_flag")
    shown, heard, truth = (_array(x)[exists] for x in (frames, log_mel, sample.gt_masks))
    labelled = _flags(sample, "gt_temporal_mask_flag")[exists]
    masks = predicted_masks(sample)[exists]
    names = classes if is_semantic(sample) else None
    return clip_picture(shown, heard, truth, masks, picture_title(sample), labelled, names)


def is_semantic(sample: AVSDataSample) -> bool:
    """Return whether a sample holds predicted classes rather than one foreground.

    Raises:
        UserError: if the model has several classes and the labels are binary.
    """
    semantic = sample.get("pred_labels") is not None
    if semantic and sample.subset != "avss":
        raise UserError("--out and --show-dir: S4 and MS3 need a model of one class, this one has several")
    return semantic


def write_masks(root: Path, sample: AVSDataSample, index: int) -> None:
    """Write the predicted mask of frame `index` below `root`, of AVSS also in colours."""
    path, mask = root / mask_path(sample, index), predicted_masks(sample)[index]
    if is_semantic(sample):
        write_png(path, mask)
        write_png(path.parents[1] / "labels_rgb" / path.name, to_colours(mask))
    elif sample.subset == "avss":
        raise UserError("--out: the layout of AVSS needs a model of several classes, this one has one")
    else:
        write_png(path, mask.astype(np.uint8) * 255)


def predicted_masks(sample: AVSDataSample) -> NDArray[Any]:
    """Return the predicted masks `(T, h, w)`: class indices, or bool where the foreground's probability is over 0.5."""
    if is_semantic(sample):
        return _array(sample.pred_labels)
    return sample.pred_logits[:, 0].float().sigmoid().cpu().numpy() > 0.5


def mask_path(sample: AVSDataSample, index: int) -> Path:
    """Return the path of the mask of frame `index` below the folder with `Single-source/` and so on.

    AVSS: `AVSS/{part}/{video}/labels_semantic/{0..9}.png`;
    S4: `Single-source/s4_data/gt_masks/{split}/{category}/{video}/{video}_{1..5}.png`;
    MS3: `Multi-sources/ms3_data/gt_masks/{split}/{video}/{video}_{1..5}.png`, although the frames are called
    `{video}.mp4_{1..5}.png`.

    Raises:
        ValueError: if the sample's subset is none of them, or a name has a separator.
    """
    if sample.subset == "avss":
        file = _name(sample.frame_names[index])
        return Path("AVSS", _name(sample.part), _name(sample.clip), "labels_semantic", file)
    number = Path(sample.frame_names[index]).stem.rpartition("_")[2]
    clip, file = _name(sample.clip), _name(f"{sample.clip}_{number}.png")
    if sample.subset == "s4":
        return Path("Single-source/s4_data/gt_masks", _name(sample.split), _name(sample.category), clip, file)
    if sample.subset == "ms3":
        return Path("Multi-sources/ms3_data/gt_masks", _name(sample.split), clip, file)
    raise ValueError(f"subset: expected 's4', 'ms3' or 'avss', got {sample.subset!r}")


def picture_path(sample: AVSDataSample) -> Path:
    """Return the path of a clip's picture below `show_dir`; names of S4 and AVSS are unique only in their folder."""
    file = _name(f"{sample.clip}.png")
    if sample.subset == "avss":
        return Path(_name(sample.part), file)
    return Path(_name(sample.category), file) if sample.subset == "s4" else Path(file)


def picture_title(sample: AVSDataSample) -> str:
    """Return the clip's name and the sound that the model got."""
    audio = sample.get("audio", "real")
    return f"{sample.clip} – the model heard {_HEARD.get(audio, audio)}"


def _name(text: Any) -> str:
    if not isinstance(text, str) or Path(text).name != text:
        raise ValueError(f"clip, category, split: expected the name of a file or folder, got {text!r}")
    return text


def _flags(sample: AVSDataSample, key: str) -> NDArray[np.bool_]:
    value = sample.get(key)
    return np.ones(len(sample.gt_masks), bool) if value is None else _array(value).astype(bool)


def _array(value: Any) -> NDArray[Any]:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
