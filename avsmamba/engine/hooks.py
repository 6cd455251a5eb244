"""Hooks that make checkpoints plain, resumed runs exact and long or broken runs end well."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.amp import autocast as _  # noqa: F401  (kept out of the training's first step)

from avsmamba.engine import yaml_io
from avsmamba.engine.seeding import SeededSampler, SkippingIterator, mix, seed_everything
from avsmamba.registry import HOOKS
from avsmamba.utils import UserError

Checkpoint = dict[str, Any]
