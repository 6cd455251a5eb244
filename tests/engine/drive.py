"""tools/train.py and tools/test.py with the parts of standins.py: `python -m tests.engine.drive train CONFIG ...`.

WITHOUT_KERNEL=1 in the environment: as if the C++ scan had not been built.
"""

import os
import runpy
import sys

import torch

from tests import ROOT

if os.environ.get("WITHOUT_KERNEL"):
    sys.modules["avsmamba._cpu"] = None  # type: ignore[assignment]
import tests.engine.standins  # noqa: F401

torch.set_num_threads(1)
tool = sys.argv.pop(1)
sys.argv[0] = str(ROOT / "tools" / f"{tool}.py")
runpy.run_path(sys.argv[0], run_name="__main__")
