"""Put a trained model among those that are shipped: ship_model.py CONFIG CHECKPOINT --name NAME --about TEXT [...]."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Strip a checkpoint to its weights (under 10 MB) and write the folder of a shipped model."
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--name", required=True, help="under which --model finds it")
    parser.add_argument("--about", required=True, help="what it knows, in a sentence or two")
    parser.add_argument(
        "--scores",
        nargs="+",
        default=[],
        metavar="[WHAT=]FILE",
        help="metrics.json or robustness.json that tools/test.py wrote; WHAT: of which data",
    )
    parser.add_argument(
        "--before", nargs="+", default=[], metavar="COMMAND", help="what was run before the training, for the card"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of all models (default: models/)")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.ship import ship_model

    def run() -> None:
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

    run_tool(run)


if __name__ == "__main__":
    main()
