"""Report a training whose model does not use the sound: `ListeningCheck`."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from mmengine.runner.amp import autocast
from torch.utils.data import Subset

from avsmamba.choices import SOUNDS
from avsmamba.config.load import data_sets
from avsmamba.limits import AT_LEAST_1, PROBABILITY, counts, limits, one_of
from avsmamba.registry import DATASETS, HOOKS
from avsmamba.utils import UserError


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore python's, numpy's and torch's random state at the end."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


_WORDS = {
    "silence": "silence",
    "noise": "noise",
    "shuffle": "another clip's",
    "swap": "that of a clip of other objects",
}


@HOOKS.register_module()
class ListeningCheck(Hook):
    """Score validation clips with their own sound and with another's, and warn if both scores are nearly equal.

    Runs after a validation, with its metrics. The values are written to the log's backends with those of the
    validation, as `listening/real` and `listening/{sound}`. Neither weights nor random state change, so a resumed run
    ends with the same weights with and without this hook.

    Args:
        interval: validations between two checks.
        margin: the warning is written if the score with the own sound exceeds the other by no more than this, 0 to 1.
        num_clips: clips that are scored twice, at equal distances in the validation set; None takes all.
        sound: the replacement, see `avsmamba.datasets.avsbench.AVSBench`.
        score: name of the validation's metric.
    """

    # Before EMAHook restores the trained weights, and before the log is written.
    priority = "ABOVE_NORMAL"

    @limits(**counts("interval"), margin=PROBABILITY, num_clips=AT_LEAST_1, sound=one_of(set(SOUNDS) - {"real"}))
    def __init__(
        self,
        interval: int = 1,
        margin: float = 0.02,
        num_clips: int | None = 32,
        sound: str = "shuffle",
        score: str = "M_J",
    ):
        self.interval, self.margin, self.num_clips, self.sound, self.score = interval, margin, num_clips, sound, score
        self.loaders: dict[str, Any] = {}
        self.evaluator: Evaluator | None = None

    def before_train(self, runner: Runner) -> None:
        """Build the data sets, so that a fault of the config is reported at the start.

        Raises:
            UserError: if there is no validation, or its data set has no `audio`.
        """
        config = runner.cfg.get("val_dataloader")
        if config is None:
            raise UserError("ListeningCheck: needs a validation: val_dataloader is not set")
        with kept_random_state():
            real = self._loader(runner, copy.deepcopy(config.to_dict()), "real")
            if len(real.dataset) == 1 and self.sound in ("shuffle", "swap"):
                runner.logger.warning("ListeningCheck is off: a single clip has no other clip's sound")
                return
            self.loaders = {"real": real}
            self.loaders[self.sound] = self._loader(runner, copy.deepcopy(config.to_dict()), self.sound)
        self.evaluator = runner.build_evaluator(copy.deepcopy(runner.cfg.val_evaluator))
        inner: Any = real.dataset
        self.evaluator.dataset_meta = getattr(inner.dataset, "metainfo", None)

    def _loader(self, runner: Runner, config: dict[str, Any], sound: str) -> Any:
        for values in data_sets(config["dataset"]):
            if sound != "real" or "audio" in values:
                values["audio"] = sound
        try:
            dataset: Any = DATASETS.build(config["dataset"])
        except TypeError as error:
            raise UserError(f"ListeningCheck: val_dataloader.dataset: takes no 'audio' ({error})") from None
        count = len(dataset) if self.num_clips is None else min(self.num_clips, len(dataset))
        indices = [len(dataset) * i // count for i in range(count)]
        # Workers that persist would keep two more groups of processes.
        config = {**config, "dataset": Subset(dataset, indices), "persistent_workers": False}
        return runner.build_dataloader(config, seed=runner.seed)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        names = {sound: f"listening/{sound}" for sound in self.loaders}
        for name in names.values():  # those of an earlier check would be logged again
            runner.message_hub.log_scalars.pop(f"val/{name}", None)
        if not self.loaders or not isinstance(runner._train_loop, BaseLoop) or not self._is_due(runner):
            return
        with kept_random_state():
            found = {sound: self._score(runner, loader) for sound, loader in self.loaders.items()}
        for sound, name in names.items():
            runner.message_hub.update_scalar(f"val/{name}", found[sound])
        real, other = found.values()
        # With the iteration, since mmengine drops a warning that repeats an earlier one.
        line = f"iteration {runner.iter}: {self.score} {real:.4f} with the clips' own sound, "
        line += f"{other:.4f} with {_WORDS[self.sound]}"
        if real - other <= self.margin:
            runner.logger.warning(f"The score hardly depends on the sound, {line} (margin {self.margin})")
        else:
            runner.logger.info(f"The score depends on the sound, {line}")

    def _is_due(self, runner: Runner) -> bool:
        loop = runner.train_loop
        done = runner.epoch if isinstance(loop, EpochBasedTrainLoop) else runner.iter
        return (done // loop.val_interval) % self.interval == 0

    @torch.no_grad()
    def _score(self, runner: Runner, loader: Any) -> float:
        evaluator, model = self.evaluator, runner.model
        assert evaluator is not None
        training = model.training
        model.eval()
        for batch in loader:
            with autocast(enabled=runner.val_loop.fp16):
                outputs = model.val_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
        model.train(training)
        metrics = evaluator.evaluate(len(loader.dataset))
        if self.score not in metrics:
            raise UserError(f"ListeningCheck: score: no metric {self.score!r}; there are {[*metrics]}")
        return float(metrics[self.score])
