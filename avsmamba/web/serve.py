"""Start and stop the server of the page."""

import argparse
import socket
import threading
from pathlib import Path

from avsmamba.utils import UserError
from avsmamba.web.layout import theme
from avsmamba.web.page import build
from avsmamba.web.style import STYLE
from avsmamba.web.work import AppState, find_models

_LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(args: argparse.Namespace, root: Path) -> None:
    """Serve the page until a signal raises an exception in the main thread.

    Args:
        args: what `avsmamba.commands.web.add_arguments` defines.
        root: folder of all files, Gradio's GRADIO_TEMP_DIR.

    Raises:
        UserError: if an option cannot be used.
    """
    for option in ("max_mb", "max_seconds", "max_queue"):
        if not getattr(args, option) > 0:
            raise UserError(f"--{option.replace('_', '-')}: expected more than 0, got {getattr(args, option):g}")
    port = _free_port(args.host, args.port)
    app = AppState(find_models(args.model, args.checkpoint), args.device, args.max_mb, args.max_seconds, root)
    app.predictor(next(iter(app.models)))
    if args.host not in _LOCAL:
        print(
            f"note: {args.host} can be reached from other machines, and whoever reaches it can use this page",
            flush=True,
        )
    host = f"[{args.host}]" if ":" in args.host else args.host
    blocks = build(app, args.max_queue)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            max_file_size=int(app.max_mb * 2**20),
            theme=theme(),
            css=STYLE,
            quiet=True,
            share=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        )
        print(f"avsmamba web: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0: Gradio replaces the reasons below by 'Cannot find empty port in range'."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: not an address of this machine ({error})") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); try --port 0") from error
        return listener.getsockname()[1]
