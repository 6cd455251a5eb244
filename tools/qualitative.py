"""Draw several models' masks of the same clips (Fig. 6 to 8): qualitative.py CONFIG --pred NAME=DIR ... --out FILE."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw frames, ground truth and the masks of several models, from the folders that "
        "tools/test.py --out wrote, of clips of a config's test set."
    )
    parser.add_argument("config", help="names the test set; no model is built")
    parser.add_argument(
        "--pred", nargs="+", action="extend", required=True, metavar="NAME=DIR", help="a name to show, and its masks"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="PNG file")
    parser.add_argument("--clips", "--clip", nargs="+", default=[], metavar="NAME", help="names of test clips")
    parser.add_argument(
        "--num-clips", type=int, default=2, help="without names: this many clips, evenly spread (default: %(default)s)"
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=0,
        metavar="N",
        help="instead, the N clips of the test set on which the first --pred has the lowest M_J (Fig. 8)",
    )
    parser.add_argument("--across", type=int, default=2, help="clips beside each other (default: %(default)s)")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data-root", help="folder with Single-source/ and Multi-sources/ (also: AVSBENCH_ROOT)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.qualitative import parse_predictions, qualitative

    run_tool(
        lambda: print(
            qualitative(
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
        )
    )


if __name__ == "__main__":
    main()
