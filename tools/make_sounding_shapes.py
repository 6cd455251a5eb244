"""The same as `avsmamba make-shapes`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import make_shapes

if __name__ == "__main__":
    sys.exit(run_alias(make_shapes))
