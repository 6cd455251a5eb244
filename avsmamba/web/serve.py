"""Serving the page: one process, one folder for all its files, nothing asked of the internet."""

import argparse
import logging
import socket
import warnings
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from avsmamba.utils import UserError
from avsmamba.web import page, work
from avsmamba.web.hidden_paths import HiddenPaths
from avsmamba.web.sessions import Sessions
from avsmamba.web.style import STYLE

_LOCAL = ("127.0.0.1", "::1", "localhost")


def serve(args: argparse.Namespace, root: Path) -> None:
    """Run the server until a signal ends it.

    Args:
        args: what `avsmamba.commands.web.add_arguments` defines.
        root: the folder for all files, which Gradio knows as its own.

    Raises:
        UserError: if an option cannot be used.
    """
    for option in ("max_mb", "max_seconds", "max_queue"):
        if not getattr(args, option) > 0:
            raise UserError(f"--{option.replace('_', '-')}: expected more than 0, got {getattr(args, option):g}")
    limits = work.Limits(args.max_mb, args.max_seconds)
    desk = work.Desk(work.choices(args.model, args.checkpoint), args.device, limits, Sessions(root))
    with _listen(args.host, args.port) as listener:
        desk.predictor(next(iter(desk.models)))
        _run(make_app(desk, args.max_queue), listener, args.host)


def make_app(desk: work.Desk, max_queue: int) -> FastAPI:
    """The page as a web application; all its files are under the root of the desk's sessions."""
    root = desk.sessions.root
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    blocks = page.build(desk, max_queue)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            app_kwargs={
                "middleware": [Middleware(HiddenPaths, root=str(root))],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=int(desk.limits.max_mb * 2**20),
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=page.theme(),
            css=STYLE,
        )
    # Gradio refuses files that nobody has sent only where it believes itself launched, which mounting does not tell it;
    # without this a made-up request could read any file of the server.
    blocks.has_launched = True
    return app


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: not an address of this machine ({error})") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); try --port 0") from error
    return listener


class _Server(uvicorn.Server):
    """Says where the page is once it can be opened."""

    def __init__(self, config: uvicorn.Config, words: str) -> None:
        super().__init__(config)
        self.words = words

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            print(self.words, flush=True)


def _run(app: FastAPI, listener: socket.socket, host: str) -> None:
    port = listener.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    if host not in _LOCAL:
        print(f"note: {host} can be reached from other machines, and whoever reaches it can use this page", flush=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Open pages hold a connection all the time; they are given a second to end.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, access_log=False)
    _Server(config, f"avsmamba web: http://{name}:{port} (Ctrl-C ends it)").run(sockets=[listener])
