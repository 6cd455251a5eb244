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
        config: YAML file, which requires `checkpoint`; or, without `checkpoint`, the folder of a published model, the
            name of a shipped one, or `USER/NAME` of the Hugging Face hub. `avsmamba.model_zoo.locate.locate_model` has
            the rules: `./NAME` is always a folder, `hf://USER/NAME` always the hub's.
        checkpoint: file with all of the model's weights. Nothing in it is executed.
        device: 'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', …
        options: `key=value` strings that override the config.

    Raises:
        UserError: if a file is missing or faulty, or there is no such model or device.
    """
    return Predictor(*load_trained(config, checkpoint, device, options))
