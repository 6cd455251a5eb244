"""`avsmamba components`."""

import argparse

from avsmamba.commands.shared import source_tree

HELP = "list every registered class with its arguments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba components`."""
    parser.description = "Print the page of all registered classes with their arguments and defaults."
    parser.add_argument("--write", action="store_true", help="write docs/components.md instead of printing it")


def run(args: argparse.Namespace) -> None:
    """Print or write the page."""
    from avsmamba.reports.components import page
    from avsmamba.utils import atomic_write

    if not args.write:
        print(page(), end="")
        return
    with atomic_write(source_tree() / "docs" / "components.md") as path:
        path.write_text(page(), encoding="utf-8")
