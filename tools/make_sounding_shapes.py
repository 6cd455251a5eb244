"""Generate SoundingShapes in AVSBench's layout: make_sounding_shapes.py --subset ms3 --clips 200 --out DIR."""

import argparse
import os


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generate clips of moving, sounding shapes in AVSBench's layout.")
    parser.add_argument("--subset", choices=["s4", "ms3", "avss"], required=True)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--clips", type=int, help="number of clips: 70 %% train, 10 %% val, 20 %% test")
    amount.add_argument("--splits", metavar="train=N,val=N,test=N", help="number of clips of each split")
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels (default: 224)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    parser.add_argument(
        "--colours", choices=["kind", "any"], default="kind", help="hues by kind of shape, or any (harder)"
    )
    parser.add_argument(
        "--difficulty",
        choices=["plain", "hard"],
        default="plain",
        help="hard: clutter, overlap, uneven light, faster motion, echoes, noise, sounds of nothing in the picture",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="gets Single-source/ (s4), Multi-sources/ (ms3) or AVSS/"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.datasets.sounding_shapes import divide, make_sounding_shapes, parse_splits

    def run() -> None:
        splits = parse_splits(args.splits) if args.splits else divide(args.clips)
        folder = make_sounding_shapes(
            args.out, args.subset, splits, args.size, args.seed, args.colours, args.workers, True, args.difficulty
        )
        print(f"{sum(splits.values())} clips in {folder}")

    run_tool(run)


if __name__ == "__main__":
    main()
