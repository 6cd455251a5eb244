"""Locate a model by the name that `load_model`, `--model` and `avsmamba test` take."""

import re
from pathlib import Path
from typing import NamedTuple

from avsmamba.config.variants import ENDINGS, config_name, split_name
from avsmamba.model_zoo.bundled import DEMO, find_model, shipped_models
from avsmamba.model_zoo.folder import ModelFolder, read_folder
from avsmamba.utils import UserError

HUB = "hf://"
# USER/NAME or USER/NAME@REVISION
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(\S+))?", re.ASCII)


class LocatedModel(NamedTuple):
    """Name, config and checkpoint of a model; the files of a published one have the SHA-256 of its card."""

    name: str
    config: Path
    checkpoint: Path


def locate_model(model: str | Path, checkpoint: str | Path | None = None) -> LocatedModel:
    """Return the files of a model.

    The first rule that applies decides:

    1. With `checkpoint`, `model` is a config.
    2. `hf://USER/NAME` and `hf://USER/NAME@REVISION` are on the hub.
    3. A `Path`, and a string that begins with `.`, `/` or `~`, is the folder of a published model.
    4. A shipped model's name, or `demo`, is that model.
    5. A folder of that name is the folder of a published model.
    6. `USER/NAME` and `USER/NAME@REVISION` are on the hub.

    Only rules 2 and 6 use the network, and only for what is not in the hub's cache.

    Raises:
        UserError: if no rule applies, or what was found is faulty.
    """
    word = str(model)
    if checkpoint is not None:
        return LocatedModel(config_name(model), Path(model), Path(checkpoint))
    if split_name(Path(model))[0].suffix in ENDINGS:
        raise UserError(f"{model}: a config requires a checkpoint (--checkpoint FILE)")
    if word.startswith(HUB):
        return _on_hub(word, word.removeprefix(HUB))
    if not isinstance(model, Path) and not word.startswith((".", "/", "~")):
        if word == DEMO or word in (shipped.name for shipped in shipped_models()):
            return LocatedModel(word, *find_model(word))
        if not Path(word).exists():
            if "/" in word:
                return _on_hub(word, word)
            try:
                find_model(word)
            except UserError as error:
                raise UserError(f"{error}; or name a published model's folder, or {HUB}USER/NAME") from None
    return _verified(read_folder(Path(word).expanduser()))


def _on_hub(word: str, hub_id: str) -> LocatedModel:
    found = HUB_ID.fullmatch(hub_id)
    if found is None:
        raise UserError(f"{word}: no such folder, and not a model of the hub (USER/NAME or USER/NAME@REVISION)")
    from avsmamba.model_zoo.hub import download

    return _verified(read_folder(download(found[1], found[2])))


def _verified(model: ModelFolder) -> LocatedModel:
    model.verify()
    return LocatedModel(model.name, model.config, model.checkpoint)
