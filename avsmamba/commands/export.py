"""`avsmamba export`."""

import argparse

from avsmamba.choices import EXPORT_FORMATS
from avsmamba.commands.shared import MODEL, MODEL_HELP, add_config_options

HELP = "write a model as one file (ONNX, torch.export)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba export`."""
    parser.description = (
        "Write a trained model as one file for other programs. Height and width (multiples of 32, at least 64) and the "
        "batch size stay variable; docs/export.md describes inputs and outputs."
    )
    parser.add_argument("config", metavar=MODEL, help=MODEL_HELP)
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="weights; required with a config")
    parser.add_argument("--format", choices=EXPORT_FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=f"its name ends in {' or '.join(EXPORT_FORMATS.values())}"
    )
    parser.add_argument("--num-frames", type=int, metavar="T", help="frames of a clip (default: as trained)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run the file on three sizes and compare it with the model; a file that deviates is not written",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    """Export."""
    from avsmamba.export.write import export

    export(args.config, args.checkpoint, args.out, args.format, args.num_frames, args.check, args.cfg_options)
