"""The same as `avsmamba report`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import report

if __name__ == "__main__":
    sys.exit(run_alias(report))
