"""`avsmamba inspect`."""

import argparse

from avsmamba.commands.shared import add_config_options

HELP = "describe a checkpoint and compare it with a config"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba inspect`."""
    parser.description = (
        "Describe a checkpoint, and list which of its tensors match a YAML config. Nothing in the file is executed. "
        "Exit status: 0 if it matches, or without a config; 1 if it does not match; 2 if a file cannot be read."
    )
    parser.add_argument("file", metavar="CHECKPOINT", help="a file of torch.save or safetensors")
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file")
    parser.add_argument("--all", action="store_true", help="list every name, also those that match")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Return 0 if the checkpoint matches, else 1."""
    from avsmamba.model_zoo.inspect import inspect_checkpoint

    return int(not inspect_checkpoint(args.file, args.config, args.cfg_options, args.all))
