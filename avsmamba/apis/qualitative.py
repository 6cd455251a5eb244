"""Several models' masks of the same clips side by side (Fig. 6 to 8): what tools/qualitative.py calls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avsmamba.apis.clips import arrays, build_test_set, chosen
from avsmamba.datasets.files import read_class_indices, read_mask
from avsmamba.engine.config import load_config, parse_options
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError
from avsmamba.visualization.grid import grid, masked, panes_of, stacked, truths, with_legend
from avsmamba.visualization.hook import mask_path, write_png
from avsmamba.visualization.pictures import Picture


def qualitative(
    config: str | Path,
    predictions: Mapping[str, str],
    out: str | Path,
    clips: Sequence[str] = (),
    num_clips: int = 2,
    across: int = 2,
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> Path:
    """Draw frames, truth and the masks of several models, one column a second.

    Args:
        config: YAML file; its test set holds the clips, and no model is built.
        predictions: by the name to show, the folder that `tools/test.py --out` wrote.
        out: PNG file.
        clips: names of test clips.
        num_clips: without names, how many clips, evenly spread over the test set.
        across: clips beside each other.
        options: `key=value` words that override the config.
        data_root: folder with `Single-source/` and `Multi-sources/`.

    Returns:
        The file.

    Raises:
        UserError: for what the user can mend, in one line.
    """
    if Path(out).suffix.lower() != ".png":
        raise UserError(f"--out: expected a name that ends with .png, got {out}")
    if across < 1:
        raise UserError(f"--across: expected at least 1, got {across}")
    for name, folder in predictions.items():
        if not Path(folder).is_dir():
            raise UserError(f"--pred {name}: no such folder: {folder}")
    dataset = build_test_set(load_config(config, parse_options(options), data_root))
    classes = dataset.metainfo["classes"]
    pictures = [draw(dataset[place], predictions, classes) for place in chosen(dataset, clips, num_clips)]
    write_png(Path(out), stacked([pictures[i : i + across] for i in range(0, len(pictures), across)]))
    return Path(out)


def draw(item: dict[str, Any], predictions: Mapping[str, str], classes: Sequence[str]) -> Picture:
    """The block of one clip; of AVSS in the classes' colours, with a legend."""
    frames, masks, labelled, exists = arrays(item)
    sample = item["data_samples"]
    semantic = sample.subset == "avss"
    panes = panes_of(frames[exists])
    truth = truths(panes, masks[exists], labelled[exists], semantic)
    rows = {"frame": panes, "truth": truth}
    shown = {int(index) for index in np.unique(masks[exists & labelled])}
    for name, folder in predictions.items():
        if name in rows:
            raise UserError(f"--pred {name}: this name is taken; choose another")
        predicted = read_masks(sample, Path(folder), name)[exists]
        shown |= {int(index) for index in np.unique(predicted)}
        rows[name] = masked(panes, predicted, False, semantic)
    picture = grid(rows, sample.clip, [f"second {t + 1}" for t in np.flatnonzero(exists)])
    if not semantic:
        return picture
    names = {i: classes[i] if i < len(classes) else f"class {i}" for i in sorted(shown - {0})}
    return with_legend(picture, rows, names)


def read_masks(sample: AVSDataSample, folder: Path, name: str) -> np.ndarray:
    """One model's masks of a clip, `(T, h, w)`; padding is empty.

    Raises:
        UserError: if a file is missing, no picture, or of another size than the labels.
    """
    height, width = sample.gt_masks.shape[-2:]
    masks = np.zeros(sample.gt_masks.shape, np.uint8)
    for t in np.flatnonzero(sample.vid_temporal_mask_flag.numpy()):
        path = folder / mask_path(sample, int(t))
        if not path.is_file():
            raise UserError(f"--pred {name}: {path}: no such file; expected what tools/test.py --out writes")
        mask = read_class_indices(path) if sample.subset == "avss" else read_mask(path)
        if mask.shape != (height, width):
            shape = f"{mask.shape[0]} x {mask.shape[1]}"
            raise UserError(f"--pred {name}: {path}: expected the labels' {height} x {width} pixels, got {shape}")
        masks[t] = mask
    return masks


def parse_predictions(words: Sequence[str]) -> dict[str, str]:
    """`NAME=DIR` words as a dict.

    Raises:
        UserError: for a word of another form or a name that comes twice.
    """
    predictions: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise UserError(f"--pred: expected NAME=DIR, got {word!r}")
        if name in predictions:
            raise UserError(f"--pred: the name {name!r} is given twice")
        predictions[name] = folder
    return predictions
