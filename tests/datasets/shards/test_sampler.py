"""Each clip once an epoch, for any number of ranks and workers; nearly in sequence."""

from collections import Counter
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from avsmamba.datasets.shards import sampler as module
from avsmamba.datasets.shards.sampler import ShardSampler
from avsmamba.engine.seeding import SeededDataset, SeededSampler

SIZES = [4, 4, 4, 4, 3]


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return sum(SIZES)

    def __getitem__(self, i):
        return i


def order(monkeypatch, rank, world, epoch=0, workers=0, skip=0, **options):
    """The clips that a rank reads in an epoch, through a loader with the package's seeded sampler."""
    monkeypatch.setattr(module, "get_dist_info", lambda: (rank, world))
    data = SimpleNamespace(shard_sizes=SIZES)
    seeded = SeededSampler(lambda: ShardSampler(data, **{"seed": 7, "buffer": 3, **options}), 7)
    seeded.set_epoch(epoch)
    seeded.start = skip
    loader = DataLoader(SeededDataset(Numbers()), batch_size=2, sampler=seeded, num_workers=workers)
    return [int(i) for batch in loader for i in batch]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_each_clip_once_an_epoch(monkeypatch, world, workers):
    whole = [order(monkeypatch, r, world, 0, workers, round_up=False) for r in range(world)]
    assert Counter(chain(*whole)) == Counter(range(19))
    assert max(map(len, whole)) - min(map(len, whole)) <= 1
    assert whole == [order(monkeypatch, r, world, 0, 0, round_up=False) for r in range(world)]
    assert whole != [order(monkeypatch, r, world, 1, 0, round_up=False) for r in range(world)]


@pytest.mark.parametrize("world", [2, 3, 25])
def test_rounded_up_all_ranks_have_as_many(monkeypatch, world):
    whole = [order(monkeypatch, r, world) for r in range(world)]
    assert {len(o) for o in whole} == {-(-19 // world)}
    counts = Counter(chain(*whole))
    assert set(counts) == set(range(19)) and max(counts.values()) <= 2


@pytest.mark.parametrize("skip", [2, 8, 18])
def test_a_resumed_epoch_goes_on_at_the_exact_clip(monkeypatch, skip):
    assert order(monkeypatch, 0, 1, 3, skip=skip) == order(monkeypatch, 0, 1, 3)[skip:]


def test_without_shuffling_the_order_is_kept(monkeypatch):
    whole = [order(monkeypatch, r, 3, shuffle=False, round_up=False) for r in range(3)]
    assert list(chain(*whole)) == list(range(19))


def test_shards_are_read_nearly_in_sequence(monkeypatch):
    monkeypatch.setattr(module, "get_dist_info", lambda: (1, 4))
    data = SimpleNamespace(shard_sizes=[100] * 40)
    read = np.array([*ShardSampler(data, seed=0, buffer=150)]) // 100
    assert len(set(read)) == 10  # a fourth of the shards: no other rank's
    last = {s: np.flatnonzero(read == s) for s in set(read)}
    assert max(np.ptp(places) for places in last.values()) < 100 + 150  # few shards are in use at a time
    assert min(np.ptp(places) for places in last.values()) > 100  # but they are mixed
    assert len({tuple(np.flatnonzero(read == s)) for s in set(read)}) == 10


def test_another_data_set_is_refused():
    with pytest.raises(TypeError, match="expected a data set in shards, got list"):
        ShardSampler([1, 2])
    with pytest.raises(ValueError, match="buffer: expected at least 1"):
        ShardSampler(SimpleNamespace(shard_sizes=[1]), seed=0, buffer=0)
