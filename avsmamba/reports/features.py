"""Draw features before and after the Contextual Integration Pyramid (Fig. 9)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import load_config, parse_options
from avsmamba.reports.clips import arrays, build_test_set, chosen
from avsmamba.reports.features_plot import overlay, principal_colours
from avsmamba.utils import UserError
from avsmamba.visualization.canvas import write_png
from avsmamba.visualization.clip_picture import masked, panes_of, truths
from avsmamba.visualization.grid import grid
from avsmamba.visualization.hook import is_semantic, picture_path, picture_title, predicted_masks


def visualize_features(
    config: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    clips: Sequence[str] = (),
    num_clips: int = 4,
    scale: int = 1,
    audio: str = "real",
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> list[Path]:
    """Draw frames, truth, features before and after the pyramid, and prediction of some test clips.

    Before: the input of the pyramid at one scale (at scale 1 the projected map of the backbone, else the encoder's
    output). After: the mask features, its output. The first three principal components of each, over all frames of the
    clip, are drawn in red, green and blue over the frame with a weight of 0.7.

    Args:
        config: YAML file.
        checkpoint: weights; all of the model's must be in it.
        out: folder for a PNG file of each clip.
        clips: names of test clips.
        num_clips: without names, how many clips, evenly spread over the test set.
        scale: of the map before the pyramid, 1 (stride 4) to 4 (stride 32).
        audio: the sound that the model gets, see `avsmamba.datasets.avsbench.AVSBench`.
        options: `key=value` words that override the config.
        data_root: folder with `Single-source/` and `Multi-sources/`.

    Returns:
        The files.

    Raises:
        UserError: if an argument, the config, the checkpoint or a file of a clip is faulty.
    """
    cfg = load_config(config, parse_options(options), data_root)
    if cfg.model.get("pyramid") is None:
        raise UserError(f"{config}: model.pyramid is null: there is nothing to see before and after it")
    if scale not in (1, 2, 3, 4):
        raise UserError(f"--scale: expected 1, 2, 3 or 4, got {scale}")
    if not Path(checkpoint).is_file():
        raise UserError(f"{checkpoint}: no such checkpoint")
    dataset = build_test_set(cfg, audio)
    places = chosen(dataset, clips, num_clips)
    model = build_model(cfg.model, checkpoint, warn=print).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    files = []
    for place in places:
        item = dataset[place]
        before, after, sample = run(model, item, scale)
        files.append(Path(out) / picture_path(sample))
        write_png(files[-1], draw(item, before, after, sample))
    return files


@torch.no_grad()
def run(model: nn.Module, item: dict[str, Any], scale: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Run the model on one clip.

    Returns:
        features before and after the pyramid, `(n, h, w, C)` of the n frames that exist, and the sample with its
        prediction.
    """
    features: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        features[:] = inputs[0][scale - 1][0], output[0]

    handle = model.pyramid.register_forward_hook(record)
    try:
        data = model.data_preprocessor(pseudo_collate([item]))
        (sample,) = model(**data, mode="predict")
    finally:
        handle.remove()
    shares = [n / padded for n, padded in zip(item["frames"].shape[-2:], data["frames"].shape[-2:], strict=True)]
    before, after = (without_padding(maps.float().cpu().numpy(), *shares) for maps in features)
    return before, after, sample


def without_padding(features: np.ndarray, height: float, width: float) -> np.ndarray:
    """Return the part of `(T, h, w, C)` maps without padding, which is at the bottom and at the right."""
    rows, columns = features.shape[1:3]
    return features[:, : max(1, round(height * rows)), : max(1, round(width * columns))]


def draw(item: dict[str, Any], before: np.ndarray, after: np.ndarray, sample: Any) -> np.ndarray:
    """Draw one clip."""
    frames, masks, labelled, exists = arrays(item)
    semantic = is_semantic(sample)
    panes = panes_of(frames[exists])
    rows = {"frame": panes, "truth": truths(panes, masks[exists], labelled[exists], semantic)}
    for name, features in (("before CIP", before), ("after CIP", after)):
        colours, shares = principal_colours(features)
        label = f"{name}\n{features.shape[1]} × {features.shape[2]}\n{100 * shares.sum():.0f} % of\nvariance"
        rows[label] = [overlay(pane, colour) for pane, colour in zip(panes, colours, strict=True)]
    rows["prediction"] = masked(panes, predicted_masks(sample)[exists], False, semantic)
    return grid(rows, picture_title(sample), [f"second {t + 1}" for t in np.flatnonzero(exists)])
