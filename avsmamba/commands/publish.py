"""`avsmamba publish`."""

import argparse
from pathlib import Path

from avsmamba.choices import WEIGHT_DTYPES
from avsmamba.utils import UserError

HELP = "write a trained model as a folder to share"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba publish`."""
    parser.description = (
        "Reduce a checkpoint to its weights and write a folder in Hugging Face's form: model.safetensors, config.yaml, "
        "card.json and README.md. load_model and --model read it. Nothing is sent without --push-to-hub."
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="weights")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder; its name is the model's")
    parser.add_argument("--about", default="", help="what the model was trained on, in a sentence or two")
    parser.add_argument(
        "--license",
        default="unknown",
        metavar="ID",
        help="of the weights: apache-2.0, cc-by-nc-4.0, … (default: unknown)",
    )
    parser.add_argument(
        "--scores",
        nargs="+",
        default=[],
        metavar="[WHAT=]FILE",
        help="metrics.json or robustness.json of `avsmamba test`; WHAT: on which data",
    )
    parser.add_argument(
        "--before", nargs="+", default=[], metavar="COMMAND", help="commands that were run before the training"
    )
    parser.add_argument(
        "--dtype", choices=WEIGHT_DTYPES, default="float32", help="of the weights (default: %(default)s)"
    )
    parser.add_argument(
        "--push-to-hub", metavar="USER/NAME", help="upload the folder to huggingface.co (needs a token: HF_TOKEN)"
    )
    parser.add_argument("--private", action="store_true", help="with --push-to-hub: a private repository")


def run(args: argparse.Namespace) -> None:
    """Write the folder, list its files, and upload them if `--push-to-hub` says so."""
    from avsmamba.model_zoo import hub
    from avsmamba.model_zoo.publish import publish_model

    if args.push_to_hub:
        hub.check_repository(args.push_to_hub)
        hub.require_hub(args.push_to_hub)
    elif args.private:
        raise UserError("--private: expected --push-to-hub USER/NAME with it")
    folder = publish_model(
        args.config,
        args.checkpoint,
        args.out,
        args.scores,
        args.about,
        args.license,
        commands=args.before,
        dtype=args.dtype,
        hub=args.push_to_hub,
    )
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9} bytes  {Path(args.out) / path.name}")
    if args.push_to_hub:
        print(hub.upload(folder, args.push_to_hub, args.private))
