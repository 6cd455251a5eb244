"""The same as `avsmamba check-data`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import check_data

if __name__ == "__main__":
    sys.exit(run_alias(check_data))
