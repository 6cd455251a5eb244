"""The same as `avsmamba qualitative`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import qualitative

if __name__ == "__main__":
    sys.exit(run_alias(qualitative))
