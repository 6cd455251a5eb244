"""Data sets and their transforms; importing the package registers them."""

from avsmamba.datasets.avsbench import AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.avss import AVSBenchAVSS
from avsmamba.datasets.shards.clips import ShardedAVSS, ShardedMS3, ShardedS4
from avsmamba.datasets.shards.sampler import ShardSampler
from avsmamba.datasets.transforms import (
    CenterCrop,
    PhotometricDistortion,
    RandomFlip,
    RandomResizedCrop,
    RandomSizeCrop,
    Resize,
)

__all__ = [
    "AVSBenchAVSS",
    "AVSBenchMS3",
    "AVSBenchS4",
    "CenterCrop",
    "PhotometricDistortion",
    "RandomFlip",
    "RandomResizedCrop",
    "RandomSizeCrop",
    "Resize",
    "ShardSampler",
    "ShardedAVSS",
    "ShardedMS3",
    "ShardedS4",
]
