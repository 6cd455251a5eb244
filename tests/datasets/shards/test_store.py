"""Bytes from a folder, a URL with and without ranges, a pipe and the cache; what fails is one line."""

import hashlib
import http.server
import re
import sys
import threading
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from avsmamba.datasets.shards.store import Store
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError
from tests.datasets.shards.test_clips import assert_same, packed  # noqa: F401

CAT = (
    f"pipe:{sys.executable} -c 'import sys, pathlib; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())' "
)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("AVSMAMBA_SHARD_CACHE", "AVSMAMBA_SHARD_CACHE_GB", "AVSMAMBA_PIPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda s: None)


class Handler(http.server.SimpleHTTPRequestHandler):
    ranges, failures, asked = True, 0, []

    def do_GET(self):
        path = self.translate_path(self.path)
        type(self).asked.append((self.path, self.headers["Range"]))
        if type(self).failures:
            type(self).failures -= 1
            return self.send_error(503)
        found = re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError:
            return self.send_error(404)
        if found and self.ranges:
            content = content[int(found[1]) : int(found[2]) + 1]
        self.send_response(206 if found and self.ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Returns a function that serves a folder and returns its URL and handler class."""
    pytest.importorskip("aiohttp")
    servers = []

    def start(folder):
        kind = type("Own", (Handler,), {"asked": []})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: kind(*a, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", kind

    yield start
    for server in servers:
        server.shutdown()


def clips(root):
    return DATASETS.build({"type": "ShardedS4", "data_root": str(root), "split": "train"})


def test_a_url_reads_one_range_a_clip(packed, serve):  # noqa: F811
    url, handler = serve(packed / "s4")
    remote, local = clips(url), clips(packed / "s4")
    asked = len(handler.asked)
    for i in (2, 0, 1):
        assert_same(remote[i], local[i])
    ranges = handler.asked[asked:]
    assert len(ranges) == 3 and all(r for _, r in ranges)
    assert_same(clips(f"file://{packed / 's4'}")[0], local[0])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_workers_read_a_url(packed, serve):  # noqa: F811
    url, _ = serve(packed / "s4")
    remote, local = clips(url), clips(packed / "s4")
    remote[0]  # the parent's connection is not the workers'
    loader = DataLoader(remote, batch_size=None, num_workers=2, timeout=60)
    for i, item in enumerate(loader):
        assert_same(item, local[i])


def test_a_server_without_ranges_is_named_and_the_cache_helps(packed, serve, tmp_path, monkeypatch):  # noqa: F811
    url, handler = serve(packed / "s4")
    handler.ranges = False
    with pytest.raises(UserError, match=r"expected bytes .* does not serve ranges of bytes \(AVSMAMBA_SHARD_CACHE"):
        clips(url)[0]
    monkeypatch.setenv("AVSMAMBA_SHARD_CACHE", str(tmp_path))
    remote, local = clips(url), clips(packed / "s4")
    asked = len(handler.asked)
    for _ in range(2):
        for i in range(3):
            assert_same(remote[i], local[i])
    assert len(handler.asked) - asked == 2  # the two shards, each once


def test_a_failed_transfer_is_tried_again(packed, serve):  # noqa: F811
    url, handler = serve(packed / "s4")
    remote = clips(url)
    handler.failures = 3
    assert_same(remote[0], clips(packed / "s4")[0])
    handler.failures = 4
    with pytest.raises(UserError, match=r"train-000000.tar: cannot be read after 4 tries: 503"):
        remote[1]
    with pytest.raises(UserError, match=r"index.json: no such file"):
        clips(url + "/none")


def test_a_pipe_fills_the_cache(packed, tmp_path, monkeypatch):  # noqa: F811
    root = f"{CAT}{packed / 's4'}/{{name}}"
    with pytest.raises(UserError, match="runs a program; AVSMAMBA_PIPE=1"):
        clips(root)
    monkeypatch.setenv("AVSMAMBA_PIPE", "1")
    with pytest.raises(UserError, match="expected the folder of a cache in AVSMAMBA_SHARD_CACHE"):
        clips(root)
    monkeypatch.setenv("AVSMAMBA_SHARD_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="expected {name} in the command"):
        clips("pipe:cat index.json")
    piped, local = clips(root), clips(packed / "s4")
    for i in (1, 2, 0):
        assert_same(piped[i], local[i])
    assert len(list(tmp_path.glob("*/*.tar"))) == 2
    with pytest.raises(UserError, match="ended with status 1: .*No such file"):
        clips(f"{CAT}{tmp_path}/{{name}}")
    with pytest.raises(UserError, match="cannot be run: No such file"):
        clips("pipe:no-such-program {name}")


def test_the_cache_keeps_to_its_limit_and_checks_what_it_copies(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    digests = {}
    for i in range(4):
        (source / f"{i}.tar").write_bytes(bytes([i]) * 1000)
        digests[i] = hashlib.sha256(bytes([i]) * 1000).hexdigest()
    monkeypatch.setenv("AVSMAMBA_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AVSMAMBA_SHARD_CACHE_GB", "2.5e-6")
    monkeypatch.setenv("AVSMAMBA_PIPE", "1")
    store = Store(f"{CAT}{source}/{{name}}")

    def cached():
        return sorted(p.stem for p in (tmp_path / "cache").glob("*/*.tar"))

    for i in (0, 1, 0, 2):
        assert store.read(f"{i}.tar", 10, 12, digests[i]) == bytes([i, i])
    assert cached() == ["0", "2"]  # 1 was used least recently
    assert store.read("1.tar", 0, 1000, digests[1]) == bytes([1]) * 1000
    assert cached() == ["1", "2"]
    with pytest.raises(UserError, match=f"3.tar: expected SHA-256 {digests[0]}, got {digests[3]}"):
        store.read("3.tar", 0, 1, digests[0])
    assert cached() == ["1", "2"]
    monkeypatch.setenv("AVSMAMBA_SHARD_CACHE_GB", "many")
    with pytest.raises(UserError, match="AVSMAMBA_SHARD_CACHE_GB: expected a number"):
        Store(str(source))
