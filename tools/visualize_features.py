"""Draw features before and after CIP (Fig. 9): visualize_features.py CONFIG CHECKPOINT --out DIR [--clips NAME ...]."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw the principal components of the features before and after the Contextual Integration "
        "Pyramid over the frames of test clips: one PNG file a clip."
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--clips", "--clip", nargs="+", default=[], metavar="NAME", help="names of test clips")
    parser.add_argument(
        "--num-clips", type=int, default=4, help="without names: this many clips, evenly spread (default: %(default)s)"
    )
    parser.add_argument(
        "--scale", type=int, default=1, help="of the map before CIP: 1 (stride 4) to 4 (stride 32) (default: 1)"
    )
    parser.add_argument(
        "--audio",
        choices=["real", "silence", "noise", "shuffle", "swap"],
        default="real",
        help="what the model hears (default: real)",
    )
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data-root", help="folder with Single-source/ and Multi-sources/ (also: AVSBENCH_ROOT)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.features import visualize_features

    def run() -> None:
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

    run_tool(run)


if __name__ == "__main__":
    main()
