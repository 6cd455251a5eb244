"""Print the page of all registered classes and their arguments, or write it: components.py [--write]."""

import argparse
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "docs" / "components.md"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every registered class with its arguments and their defaults.")
    parser.add_argument("--write", action="store_true", help="write docs/components.md instead of printing it")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.components import page, write

    run_tool(lambda: write(TARGET) if args.write else print(page(), end=""))


if __name__ == "__main__":
    main()
