"""`avsmamba info`."""

import argparse

HELP = "report versions and which kernels are built"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba info`: none."""
    parser.description = (
        "Report versions, which kernels of the scan are built and can be loaded, and the command that builds a missing "
        "one."
    )


def run(args: argparse.Namespace) -> None:
    """Print the report."""
    from avsmamba.info import report

    print(report())
