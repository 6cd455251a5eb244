"""Random numbers that depend only on the position in the training, so that a resumed run repeats an unbroken one.

Each draw of a training sample is seeded by (seed, epoch, draw, rank): augmentation is the same with any number of
workers, persistent or not, differs between ranks and epochs, and a resumed run does not replay skipped samples.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, Sampler

from avsmamba.registry import DATASETS, FUNCTIONS, SAMPLERS


def mix(*numbers: int) -> int:
    """Hash several non-negative numbers to a 32-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed python's, numpy's and torch's generators of this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededDataset(Dataset):
    """A data set indexed by (index, seed): the seed determines all random numbers of the sample."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        seed_everything(seed)
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SeededSampler(Sampler):
    """Sampler that yields (index, seed) for each index of another one.

    Args:
        build: returns the other sampler; called for each pass, since mmengine's InfiniteSampler can be read only once.
        seed: of the run.
    """

    def __init__(self, build: Callable[[], Any], seed: int):
        self.build, self.seed = build, seed
        self.epoch = self.start = 0
        self.length = len(build())

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        sampler = self.build()
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)
        start, self.start = self.start, 0
        for draw, index in enumerate(itertools.islice(sampler, start, None), start):
            yield index, mix(self.seed, self.epoch, draw, get_rank())


def seeded_parts(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a dataloader's config with its data set and sampler built and wrapped as above."""
    dataset = DATASETS.build(config["dataset"])
    if hasattr(dataset, "full_init"):
        dataset.full_init()

    def build() -> Any:
        return SAMPLERS.build(config["sampler"], default_args={"dataset": dataset, "seed": seed})

    return {**config, "dataset": SeededDataset(dataset), "sampler": SeededSampler(build, seed)}


def with_functions(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with `worker_init_fn` and `collate_fn` looked up; mmengine searches its root registry only."""
    config = dict(config)
    for key in ("worker_init_fn", "collate_fn"):
        value = config.get(key)
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            config[key] = {**value, "type": FUNCTIONS.get(value["type"])}
        elif value is None:
            config.pop(key, None)
    return config


class SkippingIterator:
    """Iterator for mmengine's iteration loop, which draws `skip` batches again on resume: yields None for each.

    Args:
        loader: the training dataloader, its sampler a SeededSampler.
        skip: number of finished iterations.
        restart: returns the loop's own iterator over `loader`.
    """

    def __init__(self, loader: DataLoader, skip: int, restart: Callable[[DataLoader], Any]):
        self.loader, self.skip, self.left, self.restart = loader, skip, skip, restart
        self.inner: Any = None

    def __iter__(self) -> "SkippingIterator":
        return self

    def __next__(self) -> Any:
        if self.left:
            self.left -= 1
            return None
        if self.inner is None:
            self.inner = self._after_skip()
        return next(self.inner)

    def _after_skip(self) -> Any:
        sampler = self.loader.sampler
        passes, batches = (0, self.skip) if _is_endless(sampler) else divmod(self.skip, len(self.loader))
        sampler.set_epoch(passes)
        sampler.start = batches * self.loader.batch_sampler.batch_size
        inner = self.restart(self.loader)
        inner._epoch = passes
        return inner


def _is_endless(sampler: SeededSampler) -> bool:
    return "Infinite" in type(sampler.build()).__name__
