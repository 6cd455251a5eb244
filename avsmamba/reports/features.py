"""Drawing what the Contextual Integration Pyramid makes of the features (Fig. 9): tools/visualize_features.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from avsmamba.checkpoint.load import load_weights
from avsmamba.checkpoint.reading import read_file
from avsmamba.config.load import load_config, parse_options
from avsmamba.engine.evaluate import drop_pretrained
from avsmamba.registry import MODELS
from avsmamba.reports.clips import arrays, build_test_set, chosen
from avsmamba.reports.features_plot import overlay, principal_colours
from avsmamba.utils import UserError
from avsmamba.visualization.grid import grid, masked, panes_of, truths
from avsmamba.visualization.hook import foreground, is_semantic, picture_path, picture_title, write_png


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

    Before: the map of one scale that enters the pyramid (of scale 1 the projected map of the backbone, else what the
    encoder made of it). After: the mask features that leave it. The three first principal components of each, from a
    basis of its own over all frames of the clip, are red, green and blue, with a weight of 0.7 over the frame.

    Args:
        config: YAML file.
        checkpoint: weights; all of the model's must be in it.
        out: folder for one PNG file a clip.
        clips: names of test clips.
        num_clips: without names, how many clips, evenly spread over the test set.
        scale: of the map before the pyramid, 1 (stride 4) to 4 (stride 32).
        audio: what the model hears, see `avsmamba.datasets.avsbench.AVSBench`.
        options: `key=value` words that override the config.
        data_root: folder with `Single-source/` and `Multi-sources/`.

    Returns:
        The files.

    Raises:
        UserError: for what the user can mend, in one line.
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
    drop_pretrained(cfg.model)
    model = MODELS.build(cfg.model).eval()
    load_weights(model, read_file(str(checkpoint), "cpu"), str(checkpoint), True, print)
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
    """One clip through the model.

    Returns:
        features before `(n, h, w, C)` and after the pyramid, of the n frames that exist, and the sample with its
        prediction.
    """
    seen: dict[str, Tensor] = {}

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen["before"], seen["after"] = inputs[0][scale - 1][0], output[0]

    handle = model.pyramid.register_forward_hook(look)
    try:
        data = model.data_preprocessor(pseudo_collate([item]))
        (sample,) = model(**data, mode="predict")
    finally:
        handle.remove()
    shares = [n / padded for n, padded in zip(item["frames"].shape[-2:], data["frames"].shape[-2:], strict=True)]
    before, after = (without_padding(seen[name].float().cpu().numpy(), *shares) for name in ("before", "after"))
    return before, after, sample


def without_padding(features: np.ndarray, height: float, width: float) -> np.ndarray:
    """The part of `(T, h, w, C)` maps that the frames fill; they were padded at the bottom and at the right."""
    rows, columns = features.shape[1:3]
    return features[:, : max(1, round(height * rows)), : max(1, round(width * columns))]


def draw(item: dict[str, Any], before: np.ndarray, after: np.ndarray, sample: Any) -> np.ndarray:
    """The picture of one clip."""
    frames, masks, labelled, exists = arrays(item)
    semantic = is_semantic(sample)
    panes = panes_of(frames[exists])
    rows = {
        "frame": panes,
        "truth": truths(panes, masks[exists], labelled[exists], semantic),
    }
    for name, features in (("before CIP", before), ("after CIP", after)):
        colours, shares = principal_colours(features)
        label = f"{name}\n{features.shape[1]} × {features.shape[2]}\n{100 * shares.sum():.0f} % of\nvariance"
        rows[label] = [overlay(pane, colour) for pane, colour in zip(panes, colours, strict=True)]
    predicted = sample.pred_labels.cpu().numpy() if semantic else foreground(sample) > 0.5
    rows["prediction"] = masked(panes, predicted[exists], False, semantic)
    return grid(rows, picture_title(sample), [f"second {t + 1}" for t in np.flatnonzero(exists)])
