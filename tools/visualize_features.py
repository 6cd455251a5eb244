"""The same as `avsmamba features`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import features

if __name__ == "__main__":
    sys.exit(run_alias(features))
