"""`avsmamba web`."""

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from avsmamba.commands.shared import MODEL, MODEL_HELP
from avsmamba.utils import UserError

HELP = "open a web page for trying videos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba web`."""
    parser.description = "Serve a web page on which a video is uploaded and its sounding objects are outlined."
    parser.add_argument(
        "--model",
        metavar=MODEL,
        help=f"a model besides the shipped ones, selected at the start: {MODEL_HELP}",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="its weights, if --model is a config")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--max-mb", type=float, default=200, metavar="MB", help="largest file accepted (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=120, metavar="S", help="longest video accepted (default: %(default)s)"
    )
    parser.add_argument(
        "--max-queue", type=int, default=20, metavar="N", help="requests that may wait (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM, then remove its temporary folder.

    Raises:
        UserError: if gradio is missing, the model is unknown, a limit is not positive or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("avsmamba web needs gradio, which is not installed: pip install avsmamba[web]")
    handler = signal.signal(signal.SIGTERM, _exit)
    root = Path(tempfile.mkdtemp(prefix="avsmamba-web-")).resolve()
    link = Path("/tmp", root.name)
    proxies = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    try:
        # Browsers see the paths of files: below /tmp, whatever TMPDIR is.
        if link != root:
            link.symlink_to(root)
        os.environ.update(
            GRADIO_TEMP_DIR=str(link),
            GRADIO_ANALYTICS_ENABLED="False",  # and no check for a new version
            no_proxy=f"{proxies},localhost,{args.host}",  # Gradio sends itself a first request
        )
        from avsmamba.web.serve import serve

        serve(args, link)
    finally:
        if link != root:
            link.unlink(missing_ok=True)
        shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGTERM, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
