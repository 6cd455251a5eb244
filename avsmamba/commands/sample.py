"""`avsmamba sample`."""

import argparse

HELP = "write a sample video and its true masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba sample`."""
    parser.description = (
        "Write sample.mp4, ten seconds of moving shapes, some of which sound, and sample_masks/, the true masks at "
        "each second. The shipped models know such shapes and their timbres, not real-world objects."
    )
    parser.add_argument("--out", default=".", metavar="DIR", help="output folder (default: the working directory)")
    parser.add_argument("--seed", type=int, default=0, help="of the random clip (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the clip and print the command that predicts its masks."""
    from avsmamba.sounding_shapes.sample import MASKS, SECONDS, make_sample

    video = make_sample(args.out, args.seed)
    masks = video.with_name(MASKS)
    print(f"{video}: {SECONDS} s of moving shapes, some of which sound\n{masks}: the true masks at each second")
    print(f"next: avsmamba predict {video} --out {video.with_name('predictions')}")
