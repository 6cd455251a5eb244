"""What the commands call."""

from avsmamba.engine.evaluate import test
from avsmamba.engine.robustness import robustness
from avsmamba.engine.train import train

__all__ = ["robustness", "test", "train"]
