"""`avsmamba components`."""

import argparse

from avsmamba.commands.shared import source_tree

HELP = "list every registered class with its arguments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba components`."""
    parser.description = "Print the page of all registered classes with their arguments and defaults."
    parser.add_argument("--write", action="store_true", help="write docs/components.md instead of printing it")


def run(args: argparse.Namespace) -> None:
    """Print the page, or write it."""
    from avsmamba.reports.components import page, write

    if args.write:
        write(source_tree() / "docs" / "components.md")
    else:
        print(page(), end="")
