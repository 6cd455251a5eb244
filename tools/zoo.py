"""Print the zoo, or write its page: zoo.py [--write] [--add CONFIG metrics.json]."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Every config under configs/ with its parameters, GFLOPs, the paper's score and ours."
    )
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md instead of printing it")
    parser.add_argument(
        "--add",
        nargs=2,
        metavar=("CONFIG", "METRICS"),
        help="first put what tools/test.py wrote (metrics.json) into docs/zoo_scores.json",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.ablate import read_json
    from avsmamba.apis.zoo import add_score, collect, page, write

    configs, scores, target = ROOT / "configs", ROOT / "docs" / "zoo_scores.json", ROOT / "docs" / "zoo.md"

    def run() -> None:
        if args.add:
            add_score(scores, args.add[0], Path(args.add[1]))
        if args.write:
            print(f"{len(write(configs, scores, target))} configs in {target}")
        elif not args.add:
            print(page(collect(configs), read_json(scores)), end="")

    run_tool(run)


if __name__ == "__main__":
    main()
