"""`avsmamba zoo`."""

import argparse
from pathlib import Path

from avsmamba.commands.shared import source_tree

HELP = "list every config with its size, cost and scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba zoo`."""
    parser.description = "List every config under configs/ with its parameters, GFLOPs, the paper's score and ours."
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md instead of printing it")
    parser.add_argument(
        "--add",
        nargs=2,
        metavar=("CONFIG", "METRICS"),
        help="first add the scores in a metrics.json of `avsmamba test` to docs/zoo_scores.json",
    )


def run(args: argparse.Namespace) -> None:
    """Add a score, write the page, or print it."""
    root = source_tree()
    from avsmamba.apis.ablate import read_json
    from avsmamba.apis.zoo import add_score, collect, page, write

    configs, scores, target = root / "configs", root / "docs" / "zoo_scores.json", root / "docs" / "zoo.md"
    if args.add:
        add_score(scores, args.add[0], Path(args.add[1]))
    if args.write:
        print(f"{len(write(configs, scores, target))} configs in {target}")
    elif not args.add:
        print(page(collect(configs), read_json(scores)), end="")
