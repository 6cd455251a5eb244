"""`avsmamba web`: the page on which a video is dropped and what sounds in it is outlined."""

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from avsmamba.utils import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--model", metavar="CONFIG|NAME", help="a model beside the shipped ones; it is chosen at first")
    parser.add_argument("--checkpoint", metavar="FILE", help="its weights, where --model is a config")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="port (default 7860; 0 takes any free one)")
    parser.add_argument("--max-mb", type=float, default=200, metavar="MB", help="largest file taken (default 200)")
    parser.add_argument("--max-seconds", type=float, default=120, metavar="S", help="longest video taken (default 120)")
    parser.add_argument(
        "--max-queue", type=int, default=20, metavar="N", help="how many requests may wait (default 20)"
    )


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM; its temporary folder is removed then.

    Raises:
        UserError: if gradio is missing, the model is unknown, a limit is not positive or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("avsmamba web needs gradio, which is not installed: pip install avsmamba[web]")
    before = signal.signal(signal.SIGTERM, _leave)
    root = Path(tempfile.mkdtemp(prefix="avsmamba-web-")).resolve()
    try:
        # Read when gradio is imported: where its files go; no statistics are sent, no newer version is looked for.
        os.environ.update(GRADIO_TEMP_DIR=str(root), GRADIO_ANALYTICS_ENABLED="False")
        from avsmamba.web.serve import serve

        serve(args, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
