"""A sampler that reads shards nearly in sequence, in a random order, and splits them over ranks."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from avsmamba.limits import AT_LEAST_1, limits
from avsmamba.registry import SAMPLERS


@SAMPLERS.register_module()
class ShardSampler(Sampler):
    """The order of clips of a `Sharded` data set; it depends on the seed, the epoch and the number of ranks only.

    The shards are shuffled, their clips put in one line and cut into a block for each rank; each rank moves every clip
    of its block by up to `buffer` places. So a rank reads its own shards (at most the first and last ones are read by
    another rank too), few at a time, and each clip occurs once in an epoch.

    Args:
        dataset: has `shard_sizes`, the clips of each shard.
        shuffle: else the order of the shards and clips is kept.
        seed: the same in all ranks; None: drawn and shared.
        buffer: clips among which a clip is moved; more than those of a shard mix shards.
        round_up: ranks with one clip less than others get the first clip of the next rank too, so that all ranks have
            the same number of iterations, as training by epochs requires; else each clip occurs exactly once.

    Raises:
        TypeError: if the data set is not in shards.
    """

    @limits(buffer=AT_LEAST_1)
    def __init__(
        self,
        dataset: Any,
        shuffle: bool = True,
        seed: int | None = None,
        buffer: int = 2000,
        round_up: bool = True,
    ):
        if not hasattr(dataset, "shard_sizes"):
            raise TypeError(f"ShardSampler: expected a data set in shards, got {type(dataset).__name__}")
        self.rank, self.world_size = get_dist_info()
        self.sizes = np.array(dataset.shard_sizes)
        self.shuffle, self.buffer, self.round_up = shuffle, buffer, round_up
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def block(self) -> tuple[int, int]:
        """Return the first place of this rank's block and the number of its clips."""
        total = int(self.sizes.sum())
        first, last = (total * r // self.world_size for r in (self.rank, self.rank + 1))
        return first, math.ceil(total / self.world_size) if self.round_up else last - first

    def __len__(self) -> int:
        return self.block()[1]

    def __iter__(self) -> Iterator[int]:
        first, count = self.block()
        starts = np.cumsum(self.sizes) - self.sizes
        shards = np.arange(len(self.sizes))
        if self.shuffle:
            shards = np.random.default_rng((self.seed, self.epoch)).permutation(shards)
        line = np.concatenate([starts[s] + np.arange(self.sizes[s]) for s in shards])
        mine = line[np.arange(first, first + count) % len(line)]
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch, self.rank))
            mine = mine[np.argsort(np.arange(count) + rng.uniform(0, self.buffer, count), kind="stable")]
        return iter(mine.tolist())
