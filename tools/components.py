"""The same as `avsmamba components`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import components

if __name__ == "__main__":
    sys.exit(run_alias(components))
