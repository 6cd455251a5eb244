"""`avsmamba complexity`."""

import argparse

from avsmamba.commands.shared import add_config_options, source_tree

FIG_10 = ("vim_b", "vmamba_b", "pvtv2b5")
HELP = "measure parameters, GFLOPs, memory and time (Fig. 10)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba complexity`."""
    parser.description = (
        "Measure the inference of one clip: parameters, GFLOP, peak memory and seconds of each config at each size, "
        "each case in its own process. Writes complexity.json, complexity.md and complexity.png."
    )
    parser.add_argument(
        "--configs",
        nargs="+",
        default=[],
        metavar="FILE",
        help="YAML files (default: those of Fig. 10: Vim-B, VMamba-B, PVT-v2 b5)",
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[224, 512], metavar="PX", help="heights and widths (default: 224 512)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="output folder")
    parser.add_argument("--frames", type=int, default=5, metavar="T", help="frames of a clip (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="clips at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="timed runs (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, and write the results."""
    from avsmamba.reports.complexity import complexity

    complexity(
        args.configs or [str(source_tree() / f"configs/avs_mamba/avs_mamba_{name}_ms3_512.yaml") for name in FIG_10],
        args.sizes,
        args.out,
        frames=args.frames,
        batch=args.batch,
        repeats=args.repeats,
        device=args.device,
        options=args.cfg_options,
    )
