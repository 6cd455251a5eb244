"""Load a trained model: a config with its checkpoint, or one that `locate_model` finds."""

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from avsmamba.checkpoint.build import build_model
from avsmamba.checkpoint.reading import read_file
from avsmamba.choices import DEFAULT_MODEL
from avsmamba.config.load import LOADERS, data_sets, load_config, parse_options
from avsmamba.datasets.avss import AVSBenchAVSS, read_classes
from avsmamba.datasets.clip_table import find_folder
from avsmamba.model_zoo.locate import locate_model
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError, one_line

BINARY = ("sounding",)


class TrainedModel(NamedTuple):
    """A model with its weights, in evaluation mode, and the parts of its config that describe its input.

    Attributes:
        model: an `AVSSegmentor`.
        cfg: its config.
        classes: names by class index, the background first; of one class `("sounding",)`.
        num_frames: T, frames in a clip of its training.
        pipeline: configs of the transforms that a test applies to frames.
    """

    model: nn.Module
    cfg: Config
    classes: tuple[str, ...]
    num_frames: int
    pipeline: Sequence[dict[str, Any]]


def load_trained(
    config: str | Path = DEFAULT_MODEL,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    options: Sequence[str] = (),
) -> TrainedModel:
    """Load a trained model; arguments and errors as in `avsmamba.load_model`."""
    found = locate_model(config, checkpoint)
    place = find_device(device)
    cfg = load_config(found.config, parse_options(options))
    content = read_file(found.checkpoint)
    model = build_model(cfg.model, found.checkpoint, content=content, warn=warnings.warn).to(place).eval()
    dataset = data_set(cfg)
    return TrainedModel(model, cfg, class_names(cfg, content), trained_frames(dataset), dataset.get("pipeline") or ())


def find_device(name: str) -> torch.device:
    """Return the device of this name; 'auto' is a GPU if there is one.

    Raises:
        UserError: if it is unknown or not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device: expected auto, cpu or an available GPU, got {name!r} ({one_line(error)})") from None
    return device


def class_names(cfg: Config, checkpoint: Any) -> tuple[str, ...]:
    """Return the names of a model's classes by index, the background first; of one class `("sounding",)`.

    They are read from the checkpoint, else from the data set; else they are numbers.
    """
    count = (cfg.model.get("head") or {}).get("num_classes", 1)
    if count == 1:
        return BINARY
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    names = ((meta or {}).get("dataset_meta") or {}).get("classes") or ()
    if len(names) != count:
        try:
            folder = find_folder(Path(data_set(cfg)["data_root"]), AVSBenchAVSS.FOLDER, AVSBenchAVSS.TABLE)
            names = read_classes(folder / "label2idx.json")
        except (UserError, KeyError):
            names = ()
    if len(names) != count:
        names = ["background", *(f"class {i}" for i in range(1, count))]
    return tuple(str(name) for name in names)


def data_set(cfg: Config) -> dict[str, Any]:
    """Return the config of the test set, else of the validation or training set; empty without any."""
    for loader in reversed(LOADERS):
        for found in data_sets((cfg.get(loader) or {}).get("dataset")):
            return found
    return {}


def trained_frames(dataset: dict[str, Any]) -> int:
    """Return T, the number of frames in a clip of a data set."""
    if "num_frames" in dataset:
        return int(dataset["num_frames"])
    known = DATASETS.get(dataset.get("type", ""))
    argument = inspect.signature(known).parameters.get("num_frames") if known else None
    return argument.default if argument else 5
