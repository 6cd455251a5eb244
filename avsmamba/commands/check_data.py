"""`avsmamba check-data`."""

import argparse

from avsmamba.commands.shared import add_config_options, add_data_root

HELP = "list every faulty file of a data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba check-data`."""
    parser.description = (
        "Read all data sets of a YAML config and list every faulty file. Exit status: 0 without a fault, 1 with "
        "faults, 2 if the check failed."
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    add_config_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> int:
    """Return exit status 1 if there is a fault, else 0."""
    from avsmamba.engine.check_data import check_data

    return int(check_data(args.config, args.data_root, args.cfg_options) > 0)
