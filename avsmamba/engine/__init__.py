"""Configs, training and testing; importing this registers the hooks and what else configs name."""

from avsmamba.config import load as config
from avsmamba.config.check import check_config
from avsmamba.config.load import load_config, parse_options
from avsmamba.engine.freeze import FreezeBackbone
from avsmamba.engine.hooks import ExactResume, NaNGuard, PlainCheckpoint, ShortHistory
from avsmamba.engine.log import ShortLog
from avsmamba.engine.optim import AutocastOptimWrapper
from avsmamba.engine.runner import AVSRunner

__all__ = [
    "AVSRunner",
    "AutocastOptimWrapper",
    "ExactResume",
    "FreezeBackbone",
    "NaNGuard",
    "PlainCheckpoint",
    "ShortHistory",
    "ShortLog",
    "check_config",
    "config",
    "load_config",
    "parse_options",
]
