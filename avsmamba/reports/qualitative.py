"""Draw the masks of several models side by side (Fig. 6 to 8)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avsmamba.config.load import load_config, parse_options
from avsmamba.datasets.readers import read_class_indices, read_mask
from avsmamba.evaluation import frame_scores, semantic_clip_scores
from avsmamba.reports.clips import arrays, build_test_set, chosen
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError
from avsmamba.visualization.canvas import Picture, write_png
from avsmamba.visualization.clip_picture import legend_names, masked, panes_of, truths
from avsmamba.visualization.grid import grid, stacked
from avsmamba.visualization.hook import mask_path


def qualitative(
    config: str | Path,
    predictions: Mapping[str, str],
    out: str | Path,
    clips: Sequence[str] = (),
    num_clips: int = 2,
    across: int = 2,
    worst: int = 0,
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> Path:
    """Draw frames, truth and the masks of several models, one column a second.

    Args:
        config: YAML file with the test set; no model is built.
        predictions: folders that `avsmamba test --out` wrote, by the name of the row.
        out: PNG file.
        clips: names of test clips.
        num_clips: without names, how many clips, evenly spread over the test set.
        across: clips in a row of the picture.
        worst: if not 0, draw instead the `worst` clips of the test set with the lowest M_J of the first model, lowest
            first (Fig. 8). Their scores are printed, and are in the titles and in the PNG text `worst`.
        options: `key=value` words that override the config.
        data_root: folder with `Single-source/` and `Multi-sources/`.

    Returns:
        The file.

    Raises:
        UserError: if an argument, the config, a mask or a file of a clip is faulty.
    """
    if Path(out).suffix.lower() != ".png":
        raise UserError(f"--out: expected a name that ends with .png, got {out}")
    if across < 1:
        raise UserError(f"--across: expected at least 1, got {across}")
    if worst < 0:
        raise UserError(f"--worst: expected at least 1 clip, or 0 for none, got {worst}")
    if worst and clips:
        raise UserError("--worst: chooses the clips itself; omit --clips")
    for name, folder in predictions.items():
        if not Path(folder).is_dir():
            raise UserError(f"--pred {name}: no such folder: {folder}")
    dataset = build_test_set(load_config(config, parse_options(options), data_root))
    classes = dataset.metainfo["classes"]
    scores: dict[int, float] = {}
    if worst:
        scores = dict(find_worst(dataset, *next(iter(predictions.items())), worst))
        for place, score in scores.items():
            print(f"M_J {score:.3f}  {dataset.clips[place].name}")
    pictures = [
        draw(dataset[place], predictions, classes, scores.get(place))
        for place in scores or chosen(dataset, clips, num_clips)
    ]
    notes = {"worst": {dataset.clips[place].name: score for place, score in scores.items()}} if scores else {}
    write_png(Path(out), stacked([pictures[i : i + across] for i in range(0, len(pictures), across)]), **notes)
    return Path(out)


def find_worst(dataset: Any, name: str, folder: str, count: int) -> list[tuple[int, float]]:
    """Find the clips of a data set on which a model's masks score lowest.

    Args:
        dataset: a test set; every clip is read once.
        name: of the model, for errors.
        folder: output of `avsmamba test --out`.
        count: of clips.

    Returns:
        indices in the data set and M_J, lowest first; clips without a labelled frame are left out.

    Raises:
        UserError: if a mask is missing or does not fit, or no clip is labelled.
    """
    scores = []
    for place in range(len(dataset)):
        score = clip_score(dataset[place], name, Path(folder))
        if score is not None:
            scores.append((place, score))
    if not scores:
        raise UserError(f"--worst: no clip of {dataset.folder}, split {dataset.split}, has a labelled frame")
    return sorted(scores, key=lambda pair: pair[1])[:count]


def clip_score(item: dict[str, Any], name: str, folder: Path) -> float | None:
    """Return M_J of one clip over its labelled frames, None if there are none.

    For binary masks: the mean of the frames' IoU, of the backgrounds if the truth is empty. For AVSS: the mean over the
    classes that are true or predicted in the clip.
    """
    _, masks, labelled, exists = arrays(item)
    scored = torch.from_numpy(labelled & exists)
    if not scored.any():
        return None
    predicted, truth = torch.from_numpy(read_masks(item["data_samples"], folder, name)), torch.from_numpy(masks)
    if item["data_samples"].subset != "avss":
        logits = torch.where(predicted[scored] != 0, 1.0, -1.0)
        return float(frame_scores(logits, truth[scored]).iou.mean())
    num_classes = 1 + max(int(predicted.max()), int(truth.max()))
    clip = semantic_clip_scores(predicted, truth, num_classes, scored, torch.from_numpy(exists))
    counts = clip.count > 0
    return float((clip.iou[counts] / clip.count[counts]).mean())


def draw(
    item: dict[str, Any], predictions: Mapping[str, str], classes: Sequence[str], score: float | None = None
) -> Picture:
    """Draw one clip, with its M_J in the title unless None; of AVSS in the classes' colours, with a legend."""
    frames, masks, labelled, exists = arrays(item)
    sample = item["data_samples"]
    semantic = sample.subset == "avss"
    panes = panes_of(frames[exists])
    rows = {"frame": panes, "truth": truths(panes, masks[exists], labelled[exists], semantic)}
    shown = [masks[exists & labelled]]
    for name, folder in predictions.items():
        if name in rows:
            raise UserError(f"--pred {name}: this name is reserved; choose another")
        shown.append(read_masks(sample, Path(folder), name)[exists])
        rows[name] = masked(panes, shown[-1], False, semantic)
    title = sample.clip if score is None else f"M_J {score:.3f}  {sample.clip}"
    names = legend_names(classes, *shown) if semantic else None
    return grid(rows, title, [f"second {t + 1}" for t in np.flatnonzero(exists)], names)


def read_masks(sample: AVSDataSample, folder: Path, name: str) -> np.ndarray:
    """Read one model's masks of a clip, `(T, h, w)`; padding is empty.

    Raises:
        UserError: if a file is missing, is not a picture, or has another size than the labels.
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
    """Convert `NAME=DIR` arguments to a dict.

    Raises:
        UserError: if an argument has another form or a name occurs twice.
    """
    predictions: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise UserError(f"--pred: expected NAME=DIR, got {word!r}")
        if name in predictions:
            raise UserError(f"--pred: the name {name!r} occurs twice")
        predictions[name] = folder
    return predictions
