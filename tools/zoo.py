"""The same as `avsmamba zoo`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import zoo

if __name__ == "__main__":
    sys.exit(run_alias(zoo))
