"""Choose clips of a config's test set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.config import Config

from avsmamba.choices import SOUNDS
from avsmamba.config.load import data_sets
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError


def build_test_set(cfg: Config, audio: str = "real") -> Any:
    """Build the first data set of the config's test dataloader, with this sound.

    Raises:
        UserError: if there is none, or the sound is unknown.
    """
    if audio not in SOUNDS:
        raise UserError(f"--audio: expected one of {', '.join(SOUNDS)}, got {audio!r}")
    config = next(data_sets((cfg.get("test_dataloader") or {}).get("dataset")), None)
    if config is None:
        raise UserError(f"{cfg.filename}: has no test_dataloader: there are no clips to draw")
    return DATASETS.build({**config, "audio": audio})


def chosen(dataset: Any, names: Sequence[str], count: int) -> list[int]:
    """Return the indices of the clips of these names; without names, `count` evenly spaced indices.

    Raises:
        UserError: naming the missing clips.
    """
    if not names:
        if count < 1:
            raise UserError(f"--num-clips: expected at least 1, got {count}")
        return evenly_spaced(count, len(dataset))
    places = {clip.name: i for i, clip in enumerate(dataset.clips)}
    missing = [name for name in names if name not in places]
    if missing:
        raise UserError(f"--clips: no clip {', '.join(missing)} in {dataset.folder}, split {dataset.split}")
    return [places[name] for name in names]


def evenly_spaced(count: int, total: int) -> list[int]:
    """Return `count` indices below `total`, at most all of them."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def arrays(item: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return frames `(T, 3, H, W)`, masks `(T, h, w)` and the flags `labelled` and `exists` `(T,)` of a clip."""
    sample = item["data_samples"]
    flags = (sample.gt_temporal_mask_flag.numpy(), sample.vid_temporal_mask_flag.numpy())
    return item["frames"].numpy(), sample.gt_masks.numpy(), *flags
