"""`avsmamba make-shapes`."""

import argparse
import os

from avsmamba.choices import COLOURS, DIFFICULTIES, SUBSETS

HELP = "generate SoundingShapes, a small data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba make-shapes`."""
    parser.description = "Generate clips of moving, sounding shapes in AVSBench's layout."
    parser.add_argument("--subset", choices=SUBSETS, required=True, help="layout and annotation")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--clips", type=int, metavar="N", help="number of clips: 70 %% train, 10 %% val, 20 %% test")
    amount.add_argument("--splits", metavar="train=N,val=N,test=N", help="number of clips of each split")
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="height and width (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument(
        "--colours",
        choices=COLOURS,
        default="kind",
        help="hues by kind of shape, or any (harder) (default: %(default)s)",
    )
    parser.add_argument(
        "--difficulty",
        choices=DIFFICULTIES,
        default="plain",
        help="hard: clutter, overlap, uneven light, faster motion, echoes, noise, sounds from off screen "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for Single-source/ (s4), Multi-sources/ (ms3) or AVSS/"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)"
    )


def run(args: argparse.Namespace) -> None:
    """Generate the clips and print their folder."""
    from avsmamba.sounding_shapes.generate import divide, make_sounding_shapes, parse_splits

    splits = parse_splits(args.splits) if args.splits else divide(args.clips)
    folder = make_sounding_shapes(
        args.out, args.subset, splits, args.size, args.seed, args.colours, args.workers, True, args.difficulty
    )
    print(f"{sum(splits.values())} clips in {folder}")
