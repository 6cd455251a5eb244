"""Say what a checkpoint is: python tools/inspect_checkpoint.py FILE [CONFIG] [--all] [--cfg-options ...].

Nothing in the file is executed. Exit status: 0 when it fits the config, or none is given; 1 when it does not fit; 2 if
the file or the config cannot be read.
"""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Say what a checkpoint is, and how it goes with a YAML config.")
    parser.add_argument("file")
    parser.add_argument("config", nargs="?")
    parser.add_argument("--all", action="store_true", help="list every name, the matching ones too")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.inspect_checkpoint import inspect_checkpoint

    run_tool(lambda: sys.exit(not inspect_checkpoint(args.file, args.config, args.cfg_options, args.all)))


if __name__ == "__main__":
    main()
