"""`avsmamba import`."""

import argparse

from avsmamba.choices import IMPORT_TARGETS, NO_AUDIO

HELP = "convert own videos with masks to AVSBench's layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba import`."""
    parser.description = (
        "Convert videos with masks to AVSBench's layout, one frame a second, and check the result; or convert masks, "
        "such as masks.json of avsmamba predict, to files that CVAT or Label Studio opens. See docs/own_data.md. Exit "
        "status: 0, 1 if the written data set has faults, 2 if nothing was written."
    )
    parser.add_argument(
        "source",
        metavar="FILE|DIR",
        help="labels: JSON of COCO, YouTube-VIS or Label Studio, XML or zip of CVAT, or a folder of PNG masks a video",
    )
    parser.add_argument("--videos", required=True, metavar="FILE|DIR", help="folder with the videos, or the one video")
    parser.add_argument("--to", choices=IMPORT_TARGETS, required=True, help="layout of the data set, or tool")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for Single-source/, Multi-sources/ or AVSS/, or for files"
    )
    parser.add_argument(
        "--classes", metavar="FILE", help="JSON of class indices, as label2idx.json (default: the labels' categories)"
    )
    parser.add_argument(
        "--seconds", type=int, default=5, metavar="N", help="length of a clip; AVSS: 5 or 10 (default: %(default)s)"
    )
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--ratio",
        type=float,
        nargs=3,
        default=[0.7, 0.1, 0.2],
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the videos (default: 0.7 0.1 0.2)",
    )
    split.add_argument(
        "--split-file", metavar="FILE", help="csv with the columns video and split, and perhaps category"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split by shares (default: %(default)s)")
    parser.add_argument(
        "--no-audio",
        choices=NO_AUDIO,
        default="error",
        help="what to do with a video without sound (default: %(default)s)",
    )
    parser.add_argument("--frame-rate", type=float, metavar="FPS", help="of videos that are folders of pictures")
    parser.add_argument(
        "--by-frame", action="store_true", help="PNG masks are numbered by frame (default: by second, from 0)"
    )
    parser.add_argument(
        "--offset", type=float, default=0.0, metavar="S", help="time of the frame in its second (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=0, metavar="PX", help="shorter side of larger frames (default: keep their size)"
    )
    parser.add_argument(
        "--preview", type=int, default=8, metavar="N", help="clips on the page preview.html (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Return exit status 1 if the written data set has faults, else 0."""
    from avsmamba.own_data.convert import Importer

    importer = Importer(
        args.source,
        args.videos,
        args.to,
        args.out,
        args.classes,
        args.seconds,
        args.ratio,
        args.seed,
        args.split_file,
        args.no_audio,
        args.frame_rate,
        args.by_frame,
        args.offset,
        args.size,
        args.preview,
        progress=True,
    )
    return int(importer.run() > 0)
