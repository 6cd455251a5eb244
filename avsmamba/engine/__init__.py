"""Training, testing and checks of data; the import registers the runner, the hooks and the optimizer wrapper."""

from avsmamba.engine.backends import MLflowVisBackend, WandbVisBackend
from avsmamba.engine.freeze import FreezeBackbone
from avsmamba.engine.hooks import ExactResume, NaNGuard, PlainCheckpoint, ShortHistory
from avsmamba.engine.listening import ListeningCheck
from avsmamba.engine.log import ShortLog
from avsmamba.engine.optim import AutocastOptimWrapper
from avsmamba.engine.runner import AVSRunner
from avsmamba.engine.sharding import FullyShard

__all__ = [
    "AVSRunner",
    "AutocastOptimWrapper",
    "ExactResume",
    "FreezeBackbone",
    "FullyShard",
    "ListeningCheck",
    "MLflowVisBackend",
    "NaNGuard",
    "PlainCheckpoint",
    "ShortHistory",
    "ShortLog",
    "WandbVisBackend",
]
