"""Data sets and their transforms; importing this registers them."""

from avsmamba.datasets.avsbench import AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.avss import AVSBenchAVSS
from avsmamba.datasets.transforms import PhotometricDistortion, RandomFlip, RandomResizedCrop, Resize

__all__ = [
    "AVSBenchAVSS",
    "AVSBenchMS3",
    "AVSBenchS4",
    "PhotometricDistortion",
    "RandomFlip",
    "RandomResizedCrop",
    "Resize",
]
