"""The same as `avsmamba test`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import test

if __name__ == "__main__":
    sys.exit(run_alias(test))
