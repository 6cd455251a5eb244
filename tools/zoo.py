"""Print the zoo, or write its page: zoo.py [--write] [--memory] [--add CONFIG metrics.json]."""

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Every config under configs/ with its parameters, GFLOPs, the paper's score and ours."
    )
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md instead of printing it")
    parser.add_argument(
        "--memory",
        action="store_true",
        help="first estimate the memory of a training step of every config anew (minutes) into docs/zoo_memory.json",
    )
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
    from avsmamba.apis.zoo import add_score, collect, estimate_memory, page, write
    from avsmamba.utils import atomic_write

    configs, scores, target = ROOT / "configs", ROOT / "docs" / "zoo_scores.json", ROOT / "docs" / "zoo.md"
    memory = ROOT / "docs" / "zoo_memory.json"

    def run() -> None:
        if args.add:
            add_score(scores, args.add[0], Path(args.add[1]))
        if args.memory:
            estimates = estimate_memory(configs)
            with atomic_write(memory) as path:
                path.write_text(json.dumps(estimates, indent=2) + "\n", encoding="utf-8")
        if args.write:
            print(f"{len(write(configs, scores, target, memory))} configs in {target}")
        elif not (args.add or args.memory):
            print(page(collect(configs), read_json(scores), read_json(memory)), end="")

    run_tool(run)


if __name__ == "__main__":
    main()
