"""Build a config's model, with or without a checkpoint's weights."""

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avsmamba.checkpoint.load import load_weights
from avsmamba.checkpoint.reading import read_file
from avsmamba.registry import MODELS


def build_model(
    config: Mapping[str, Any],
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    content: Any = None,
    warn: Callable[[str], None] = warnings.warn,
) -> nn.Module:
    """Build a model; files of pretrained weights of its parts are not read.

    Args:
        config: the `model` of a config; it is not changed.
        checkpoint: file with all of the model's weights; None: random weights. Nothing in it is executed.
        device: on which the model is built; 'meta' builds shapes only.
        content: of the file, if it has been read already.
        warn: called with each line about tensors of the file that are not used.

    Raises:
        UserError: if the file is missing, damaged, or does not contain the model's weights.
    """
    config = deepcopy(config)
    drop_pretrained(config)
    with torch.device(device or "cpu"):
        model = MODELS.build(config)
    if checkpoint is not None:
        load_weights(model, read_file(checkpoint) if content is None else content, checkpoint, True, warn)
    return model


def drop_pretrained(config: Any) -> None:
    """Set every `checkpoint` in a model's config to None, so that its parts read no files of pretrained weights."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "checkpoint":
                config[key] = None
            else:
                drop_pretrained(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            drop_pretrained(value)
