"""`avsmamba features`."""

import argparse

from avsmamba.commands.shared import add_audio, add_config_options, add_data_root

HELP = "draw features before and after CIP (Fig. 9)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba features`."""
    parser.description = (
        "Draw the principal components of the features before and after the Contextual Integration Pyramid over the "
        "frames of test clips: one PNG file per clip."
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--clips", "--clip", nargs="+", default=[], metavar="NAME", help="names of test clips")
    parser.add_argument(
        "--num-clips",
        type=int,
        default=4,
        metavar="N",
        help="without names: N clips, evenly spaced (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        default=1,
        help="scale of the map before CIP: 1 (stride 4) to 4 (stride 32) (default: %(default)s)",
    )
    add_audio(parser)
    add_config_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the pictures."""
    from avsmamba.reports.features import visualize_features

    files = visualize_features(
        args.config,
        args.checkpoint,
        args.out,
        clips=args.clips,
        num_clips=args.num_clips,
        scale=args.scale,
        audio=args.audio,
        options=args.cfg_options,
        data_root=args.data_root,
    )
    print(*files, sep="\n")
