"""`avsmamba ablate`."""

import argparse

from avsmamba.choices import SOUNDS
from avsmamba.commands.shared import add_config_options, add_data_root, add_jobs, checked_jobs, source_tree
from avsmamba.utils import UserError

HELP = "train and score configs with several seeds (Tables III to VII)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba ablate`."""
    parser.description = (
        "Train configs, each in its own process, and compare their scores. Finished runs are skipped, so the same "
        "command continues after an interruption."
    )
    parser.add_argument(
        "--configs", nargs="+", metavar="FILE", help="default: the variants configs/ablations.yaml#tiny_*"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: %(default)s)")
    parser.add_argument(
        "--sounds",
        nargs="+",
        default=["real", "shuffle"],
        metavar="SOUND",
        help=f"sounds to test with, of {', '.join(SOUNDS)} (default: real shuffle)",
    )
    add_jobs(parser)
    parser.add_argument("--work-dir", default="work_dirs/ablations", metavar="DIR", help="default: %(default)s")
    add_data_root(parser)
    add_config_options(parser)
    parser.add_argument("--report", action="store_true", help="train nothing, write the table of the finished runs")
    parser.add_argument(
        "--write-docs",
        metavar="PAGE",
        help="write the table into the generated part of a page, with the plot and the figures (JSON) beside it",
    )


def run(args: argparse.Namespace) -> None:
    """Run what is missing, and write the tables."""
    from avsmamba.reports.ablate import ablate, finished, plan
    from avsmamba.reports.ablation_page import write_page, write_tables
    from avsmamba.reports.paper_tables import Ablations

    ablations = Ablations(source_tree() / "configs")
    table = ablations.variants
    configs = args.configs or [f"{table.file}#{name}" for name in table.names("tiny")]
    runs = plan(configs, args.seeds, args.work_dir, args.sounds, args.cfg_options, args.data_root)
    results, failed = (finished(runs), {}) if args.report else ablate(runs, checked_jobs(args.jobs))
    print(write_tables(results, failed, args.work_dir, ablations))
    if args.write_docs:
        write_page(results, args.write_docs, ablations)
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
