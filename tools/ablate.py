"""The same as `avsmamba ablate`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import ablate

if __name__ == "__main__":
    sys.exit(run_alias(ablate))
