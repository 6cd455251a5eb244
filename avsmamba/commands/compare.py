"""`avsmamba compare`."""

import argparse

from avsmamba.commands.shared import add_jobs, checked_jobs
from avsmamba.utils import UserError

HELP = "compare all methods under one budget (docs/comparison.md)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba compare`."""
    parser.description = (
        "Train small models of all methods with the same budget and number of learning-rate trials, and test them with "
        "several sounds. Each run is a process with one thread. Finished runs have records and are skipped, so the "
        "same command continues after an interruption; a run whose config has changed is repeated."
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="default: configs/comparison.yaml")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: all of the file")
    parser.add_argument(
        "--data-root",
        default="data/comparison",
        metavar="DIR",
        help="folder with a folder for each data set, generated where it is missing (default: %(default)s)",
    )
    parser.add_argument("--work-dir", default="work_dirs/comparison", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--records", metavar="DIR", help="records of finished runs (default: docs/comparison_runs)")
    add_jobs(parser)
    parser.add_argument("--minutes", type=float, metavar="N", help="start no run after N minutes (default: no limit)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--plan", action="store_true", help="train nothing, print the runs and their estimated time")
    action.add_argument(
        "--cost",
        action="store_true",
        help="train nothing, measure time and memory of a training step of each method into the records; run nothing "
        "else at that time",
    )
    action.add_argument("--report", action="store_true", help="train nothing, print the tables of the finished runs")
    parser.add_argument(
        "--write-docs",
        metavar="PAGE",
        help="write the tables into the generated part of a page, with the plot beside it",
    )


def run(args: argparse.Namespace) -> None:
    """Run what is missing, or what an option requests, and print the tables."""
    from avsmamba.commands.shared import source_tree
    from avsmamba.reports.compare import compare, describe_plan
    from avsmamba.reports.comparison import Comparison, Records
    from avsmamba.reports.comparison_cost import current_costs, measure_costs
    from avsmamba.reports.comparison_page import summary, write_page

    comparison = Comparison(args.file or source_tree() / "configs" / "comparison.yaml")
    records = Records(args.records or source_tree() / "docs" / "comparison_runs")
    methods, jobs = comparison.chosen(args.methods), checked_jobs(args.jobs)
    if args.minutes is not None and args.minutes <= 0:
        raise UserError(f"--minutes: expected a number above 0, got {args.minutes:g}")
    if args.plan:
        print(describe_plan(comparison, records, methods, current_costs(comparison, records.folder), jobs))
        return
    failed = {}
    if args.cost:
        measure_costs(comparison, methods, args.data_root, records.folder)
    elif not args.report:
        failed = compare(comparison, records, methods, args.work_dir, args.data_root, jobs, args.minutes)
    print(summary(comparison, records))
    if args.write_docs:
        write_page(comparison, records, args.write_docs)
    if failed:
        raise UserError(f"{len(failed)} runs failed: {'; '.join(failed)}")
