"""The same as `avsmamba complexity`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import complexity

if __name__ == "__main__":
    sys.exit(run_alias(complexity))
