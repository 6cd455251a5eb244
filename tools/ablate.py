"""Train and score configs with several seeds: ablate.py [--configs FILE ...] [--seeds 3] [--work-dir DIR] [...]."""

import argparse
import os
from pathlib import Path

# Before torch is loaded, and for the runs' processes too: see tools/train.py.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train configs one after another, each in a process of its own, and compare their scores. What is "
        "finished is skipped, so that the same command goes on after an interruption."
    )
    parser.add_argument("--configs", nargs="+", metavar="FILE", help="default: configs/ablations/tiny_*.yaml")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1 (default: %(default)s)")
    parser.add_argument("--sounds", nargs="+", default=["real", "shuffle"], help="tests (default: real shuffle)")
    parser.add_argument("--work-dir", default="work_dirs/ablations", help="default: %(default)s")
    parser.add_argument("--data-root", help="folder with Single-source/ and Multi-sources/ (also: AVSBENCH_ROOT)")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--report", action="store_true", help="train nothing: write the table of what is finished")
    parser.add_argument(
        "--write-docs",
        metavar="PAGE",
        help="put the table into the generated part of a page, with the plot and the figures (JSON) beside it",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.ablate import ablate, finished, plan
    from avsmamba.apis.ablation_page import write_page, write_tables
    from avsmamba.utils import UserError

    def run() -> None:
        configs = args.configs or sorted((ROOT / "configs" / "ablations").glob("tiny_*.yaml"))
        runs = plan(configs, args.seeds, args.sounds, args.cfg_options, args.data_root)
        results, failed = (finished(runs, args.work_dir), {}) if args.report else ablate(runs, args.work_dir)
        print(write_tables(results, failed, args.work_dir))
        if args.write_docs:
            write_page(results, args.write_docs)
        if failed:
            raise UserError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")

    run_tool(run)


if __name__ == "__main__":
    main()
