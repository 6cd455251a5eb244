"""The same as `avsmamba compare`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import compare

if __name__ == "__main__":
    sys.exit(run_alias(compare))
