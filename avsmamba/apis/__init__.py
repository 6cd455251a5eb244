"""What the tools call."""

from avsmamba.apis.command import run_tool
from avsmamba.apis.robustness import robustness
from avsmamba.apis.test import test
from avsmamba.apis.train import train

__all__ = ["robustness", "run_tool", "test", "train"]
