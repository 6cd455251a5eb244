"""No path of the server in what a browser sees.

Gradio names files by their absolute paths: in the answer to an upload, in the messages of its queue, in the addresses
of files. This layer stands around Gradio and writes another name of the same length in place of the folder, and turns
it back in requests; one length, so that no Content-Length changes.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TEXT = ("application/json", "text/event-stream", "text/html", "text/plain")


class HiddenPaths:
    """ASGI middleware that shows the folder `root` as `/avsmamba-files` (filled up with `_`).

    It must stand inside whatever compresses answers.

    Args:
        app: what is wrapped.
        root: absolute path of the folder; at least 16 characters.

    Raises:
        ValueError: if `root` is too short to be replaced by a name of its length.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        name = "/avsmamba-files"
        if len(root) <= len(name):
            raise ValueError(f"root: expected more than {len(name)} characters, got {root!r}")
        self.app = app
        self.root = root
        # The folder as it stands in an address, in JSON (twice encoded in JSON inside JSON) and by itself.
        once = json.dumps(root)[1:-1]
        forms = {root, quote(root), once, json.dumps(once)[1:-1]}
        longest_first = sorted(forms, key=lambda form: len(form.encode()), reverse=True)
        self.pairs = [(form.encode(), name.encode().ljust(len(form.encode()), b"_")) for form in longest_first]

    def hide(self, data: bytes) -> bytes:
        for real, shown in self.pairs:
            data = data.replace(real, shown)
        return data

    def reveal(self, data: bytes) -> bytes:
        for real, shown in self.pairs:
            data = data.replace(shown, real)
        return data

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = dict(scope)
        path = scope["path"]
        for _, shown in self.pairs:
            path = path.replace(shown.decode(), self.root)
        scope["path"] = path
        for key in ("raw_path", "query_string"):
            if scope.get(key):
                scope[key] = self.reveal(scope[key])
        if _content_type(scope["headers"]).startswith("application/json"):
            receive = self._revealing(receive)
        await self.app(scope, receive, self._hiding(send))

    def _revealing(self, receive: Receive) -> Receive:
        done = False

        async def whole_body() -> Message:
            nonlocal done
            if done:
                return await receive()
            body = b""
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                body += message.get("body", b"")
                if not message.get("more_body"):
                    done = True
                    return {"type": "http.request", "body": self.reveal(body), "more_body": False}

        return whole_body

    def _hiding(self, send: Send) -> Send:
        is_text = False

        async def hidden(message: Message) -> None:
            nonlocal is_text
            if message["type"] == "http.response.start":
                is_text = _content_type(message.get("headers", ())).startswith(_TEXT)
            elif message["type"] == "http.response.body" and is_text:
                message = {**message, "body": self.hide(message.get("body", b""))}
            await send(message)

        return hidden


def _content_type(headers: Sequence[tuple[bytes, bytes]]) -> str:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == b"content-type"), "")
