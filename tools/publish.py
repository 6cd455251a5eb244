"""The same as `avsmamba publish`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import publish

if __name__ == "__main__":
    sys.exit(run_alias(publish))
