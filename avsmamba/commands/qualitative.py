"""`avsmamba qualitative`."""

import argparse

from avsmamba.commands.shared import add_config_options, add_data_root

HELP = "draw the masks of several models side by side (Fig. 6 to 8)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba qualitative`."""
    parser.description = (
        "Draw frames, ground truth and the masks of several models for clips of a config's test set. The masks are "
        "those that `avsmamba test --out` wrote."
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file with the test set; no model is built")
    parser.add_argument(
        "--pred", nargs="+", action="extend", required=True, metavar="NAME=DIR", help="a name to show, and its masks"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="PNG file")
    parser.add_argument("--clips", "--clip", nargs="+", default=[], metavar="NAME", help="names of test clips")
    parser.add_argument(
        "--num-clips",
        type=int,
        default=2,
        metavar="N",
        help="without names: N clips, evenly spaced (default: %(default)s)",
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=0,
        metavar="N",
        help="instead, the N clips of the test set on which the first --pred has the lowest M_J (Fig. 8)",
    )
    parser.add_argument("--across", type=int, default=2, metavar="N", help="clips in a row (default: %(default)s)")
    add_config_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the grid."""
    from avsmamba.reports.qualitative import parse_predictions, qualitative

    path = qualitative(
        args.config,
        parse_predictions(args.pred),
        args.out,
        clips=args.clips,
        num_clips=args.num_clips,
        across=args.across,
        worst=args.worst,
        options=args.cfg_options,
        data_root=args.data_root,
    )
    print(path)
