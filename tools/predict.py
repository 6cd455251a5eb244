"""The same as `avsmamba predict`."""

import sys

from avsmamba.cli import run_alias
from avsmamba.commands import predict

if __name__ == "__main__":
    sys.exit(run_alias(predict))
