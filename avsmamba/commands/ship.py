"""`avsmamba ship`."""

import argparse

from avsmamba.choices import WEIGHT_DTYPES

HELP = "add a trained model to the shipped ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba ship`."""
    parser.description = "Reduce a checkpoint to its weights (under 10 MB) and write the folder of a shipped model."
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights")
    parser.add_argument("--name", required=True, help="name for --model")
    parser.add_argument("--about", required=True, help="what the model was trained on, in a sentence or two")
    parser.add_argument(
        "--scores",
        nargs="+",
        default=[],
        metavar="[WHAT=]FILE",
        help="metrics.json or robustness.json of `avsmamba test`; WHAT: on which data",
    )
    parser.add_argument(
        "--before", nargs="+", default=[], metavar="COMMAND", help="commands that were run before the training"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of all models (default: models/)")
    parser.add_argument(
        "--dtype", choices=WEIGHT_DTYPES, default="float32", help="of the weights (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the folder and list its files."""
    from avsmamba.model_zoo.publish import ship_model

    folder = ship_model(
        args.config,
        args.checkpoint,
        args.name,
        args.scores,
        args.about,
        commands=args.before,
        out=args.out,
        dtype=args.dtype,
    )
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9} bytes  {path}")
