"""A hub on this machine: the part of huggingface.co's HTTP interface that uploads and downloads of a model use."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub(ThreadingHTTPServer):
    """`files` by repository, `private` repositories, and the `requests` that came, as `METHOD path`."""

    TOKEN = "hf_of_the_test"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.private, self.requests, self.messages = {}, set(), [], []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def sha(self, repository):
        digest = hashlib.sha1()
        for name, content in sorted(self.files[repository].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def stop(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self._record()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._model(found[1], found[2])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            self._model(found[1], "main")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(\w+)", path):
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in hub.files[found[1]].items()
            ]
            self._send(rows)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            content = hub.files[found[1]][found[3]]
            self._send(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', **{"X-Repo-Commit": hub.sha(found[1])})
        else:
            self._fail(404, "EntryNotFound")

    def do_POST(self):
        hub, path = self._record()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {hub.TOKEN}":
            self._fail(401, "", "Invalid username or password.")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in hub.files
            hub.files.setdefault(name, {})
            # huggingface_hub 2 sends `visibility`, 1 `private`.
            if (asked.get("visibility") == "private" or asked.get("private")) and not known:
                hub.private.add(name)
            self._send({"url": f"{hub.url}/{name}"}, status=409 if known else 200)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            asked = json.loads(body)["files"]
            self._send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    hub.messages.append(line["value"]["summary"])
                else:
                    hub.files[found[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._send(
                {"commitUrl": f"{hub.url}/{found[1]}/commit/{hub.sha(found[1])}", "commitOid": hub.sha(found[1])}
            )
        else:
            self._fail(404, "EntryNotFound")

    def _record(self):
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        return self.server, path

    def _model(self, name, revision):
        hub = self.server
        if name not in hub.files:
            self._fail(404, "RepoNotFound")
        elif revision not in ("main", hub.sha(name)):
            self._fail(404, "RevisionNotFound")
        else:
            names = [{"rfilename": file} for file in hub.files[name]]
            self._send(
                {"id": name, "sha": hub.sha(name), "private": name in hub.private, "siblings": names, "tags": []}
            )

    def _fail(self, status, code, message=""):
        headers = {"X-Error-Code": code} if code else {}
        self._send({"error": message or code}, status=status, **headers)

    def _send(self, content, status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
