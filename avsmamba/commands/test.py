"""`avsmamba test`."""

import argparse
from functools import partial

from avsmamba.commands.shared import (
    MODEL,
    MODEL_HELP,
    add_audio,
    add_config_options,
    add_data_root,
    add_run_options,
    set_local_rank,
)
from avsmamba.utils import UserError

HELP = "score a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba test`."""
    parser.description = "Score a checkpoint on the test set of a YAML config."
    parser.add_argument("config", metavar=MODEL, help=MODEL_HELP)
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="weights; required with a config")
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        help="metrics.json and the log (default: work_dirs/ and the config's or model's name)",
    )
    parser.add_argument("--out", metavar="DIR", help="write the predicted masks in AVSBench's layout")
    parser.add_argument("--show-dir", metavar="DIR", help="write pictures: frames, sound, ground truth, prediction")
    add_audio(
        parser,
        "; shuffle: another clip's sound; swap: another clip's sound whose source is not in the picture, as far as the "
        "data set specifies. A model that uses the sound scores lower with all but the real one",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="test with the real sound, silence, noise and swap in one run, and write robustness.json and "
        "robustness.md; --out and --show-dir get a folder for each sound",
    )
    add_run_options(parser)
    add_config_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> None:
    """Test with one sound, or with each."""
    if args.robustness and args.audio != "real":
        raise UserError("--robustness: tests with each sound; remove --audio")
    set_local_rank(args.local_rank)
    from avsmamba.engine.evaluate import evaluate
    from avsmamba.engine.robustness import robustness
    from avsmamba.model_zoo.locate import locate_model

    model = locate_model(args.config, args.checkpoint)
    published = None if args.checkpoint else f"work_dirs/{model.name}"
    function = robustness if args.robustness else partial(evaluate, audio=args.audio)
    function(
        args.config if args.checkpoint else model.config,
        model.checkpoint,
        work_dir=args.work_dir or published,
        out=args.out,
        show_dir=args.show_dir,
        launcher=args.launcher,
        options=args.cfg_options,
        data_root=args.data_root,
        amp=args.amp,
    )
