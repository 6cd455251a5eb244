"""The same as `avsmamba train`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import train

if __name__ == "__main__":
    sys.exit(run_alias(train))
