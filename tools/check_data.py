"""List every fault of a config's data: python tools/check_data.py CONFIG [--data-root DIR] [--cfg-options ...].

Exit status: 0 without a fault, 1 with faults, 2 if the check could not be made.
"""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Walk all data sets of a YAML config and list every faulty file.")
    parser.add_argument("config")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data-root", help="folder with Single-source/, Multi-sources/, AVSS/ (also: AVSBENCH_ROOT)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.datasets.check import check_data

    run_tool(lambda: sys.exit(check_data(args.config, args.data_root, args.cfg_options) > 0))


if __name__ == "__main__":
    main()
