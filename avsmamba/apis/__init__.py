"""What the commands call."""

from avsmamba.apis.robustness import robustness
from avsmamba.apis.test import test
from avsmamba.apis.train import train

__all__ = ["robustness", "test", "train"]
