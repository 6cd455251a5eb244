"""Load a trained model for videos: `avsmamba.load_model`."""

from collections.abc import Sequence
from pathlib import Path

from avsmamba.choices import DEFAULT_MODEL
from avsmamba.inference.predictor import Predictor
from avsmamba.model_zoo.load import load_trained


def load_model(
    config: str | Path = DEFAULT_MODEL,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    options: Sequence[str] = (),
) -> Predictor:
    """Load a trained model.

    Args:
        config: YAML file, with `checkpoint` beside it; without one, the name of a model that the package ships.
        checkpoint: file with all of the model's weights. Nothing in it is executed.
        device: 'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', …
        options: `key=value` words that override the config.

    Raises:
        UserError: if a file is missing or faulty, no model has that name, or there is no such device.
    """
    return Predictor(*load_trained(config, checkpoint, device, options))
