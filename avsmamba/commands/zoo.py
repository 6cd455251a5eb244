"""`avsmamba zoo`."""

import argparse
import json
from pathlib import Path

from avsmamba.commands.shared import source_tree

HELP = "list every config with its size, cost and scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba zoo`."""
    parser.description = "List every config under configs/ with its parameters, GFLOPs, the paper's score and ours."
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
        help="first add the scores in a metrics.json of `avsmamba test` to docs/zoo_scores.json",
    )


def run(args: argparse.Namespace) -> None:
    """Add a score, write the page, or print it."""
    root = source_tree()
    from avsmamba.reports.zoo import add_score, current_page, estimate_memory
    from avsmamba.utils import atomic_write

    configs, docs = root / "configs", root / "docs"
    if args.add:
        add_score(docs / "zoo_scores.json", args.add[0], Path(args.add[1]))
    if args.memory:
        estimates = estimate_memory(configs)
        with atomic_write(docs / "zoo_memory.json") as path:
            path.write_text(json.dumps(estimates, indent=2) + "\n", encoding="utf-8")
    if args.write:
        text = current_page(configs, docs)
        with atomic_write(docs / "zoo.md") as path:
            path.write_text(text, encoding="utf-8")
        print(f"written to {docs / 'zoo.md'}")
    elif not (args.add or args.memory):
        print(current_page(configs, docs), end="")
