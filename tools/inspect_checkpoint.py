"""The same as `avsmamba inspect`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import inspect

if __name__ == "__main__":
    sys.exit(run_alias(inspect))
