"""`avsmamba train`."""

import argparse

from avsmamba.commands.shared import add_config_options, add_data_root, add_run_options, set_local_rank

HELP = "train a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba train`."""
    parser.description = "Train a model from a YAML config."
    parser.add_argument(
        "config", metavar="CONFIG", help="YAML file, or a variant: configs/ablations.yaml#ms3_orders_10"
    )
    parser.add_argument(
        "--work-dir", metavar="DIR", help="checkpoints and logs (default: work_dirs/ and the config's name)"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint; without a value from the last one of the work dir, if there is one",
    )
    add_run_options(parser)
    add_config_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> None:
    """Train."""
    set_local_rank(args.local_rank)
    from avsmamba.engine.train import train

    train(
        args.config,
        work_dir=args.work_dir,
        resume=args.resume,
        amp=args.amp,
        launcher=args.launcher,
        options=args.cfg_options,
        data_root=args.data_root,
    )
