"""The same as `avsmamba ship`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import ship

if __name__ == "__main__":
    sys.exit(run_alias(ship))
