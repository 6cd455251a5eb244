"""`avsmamba predict`."""

import argparse

from avsmamba.choices import DEFAULT_MODEL, PREDICTION_FORMATS
from avsmamba.commands.shared import MODEL, MODEL_HELP, add_config_options

HELP = "segment the sounding objects in videos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba predict`."""
    parser.description = (
        "Segment the sounding objects in videos: mp4, mkv, webm, mov, avi, or a folder of pictures and a wav file. "
        "Writes for each video overlay.mp4, masks/, masks.json and timeline.png."
    )
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a file, or a folder of png or jpg pictures and a wav file"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar=MODEL,
        help=f"{MODEL_HELP} (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="weights; required with a config")
    parser.add_argument(
        "--out",
        default="predictions",
        metavar="DIR",
        help="output folder; several videos get a folder each in it (default: %(default)s)",
    )
    parser.add_argument(
        "--format", nargs="+", choices=PREDICTION_FORMATS, default=list(PREDICTION_FORMATS), help="default: all"
    )
    parser.add_argument(
        "--fps", type=float, default=1.0, help="frames to predict per second; models are trained on 1 (default: 1)"
    )
    parser.add_argument(
        "--overlap", type=int, metavar="N", help="frames that two windows share (default: a third of a window)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="input size of the model in pixels: N, or height and width (default: the config's)",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="a pixel above this probability is marked (default: %(default)s)"
    )
    parser.add_argument(
        "--audio",
        default="real",
        metavar="real|silence|FILE",
        help="sound that the model gets: the video's, none, or a file's (default: %(default)s)",
    )
    parser.add_argument("--require-audio", action="store_true", help="a video without sound is an error")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run with the same options")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    """Predict each video; an error in one does not stop the others, and makes the status 2."""
    from avsmamba.inference import predict_video

    predict_video.run(args)
