"""The same as `avsmamba export`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import export

if __name__ == "__main__":
    sys.exit(run_alias(export))
