"""What a new user does first: `avsmamba sample`, `avsmamba predict`, and the overlay in the browser, with sound."""

import functools
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from avsmamba.sounding_shapes.sample import score_masks
from tests.web.browser import PLAY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("user")
    for words in (["sample"], ["predict", "sample.mp4"]):
        subprocess.run([sys.executable, "-m", "avsmamba.cli", *words], cwd=place, check=True)
    return place


@pytest.fixture
def address(folder):
    """Where the folder's files are, by http: as a page that shows them has them."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_masks_are_those_of_what_sounds(folder):
    assert score_masks(folder / "predictions" / "masks", folder / "sample_masks")["M_J"] >= 0.7


def test_the_overlay_plays_with_sound(browser, address):
    browser.get(f"{address}/predictions/overlay.mp4")
    found = browser.execute_async_script(PLAY, "video")
    assert found["error"] is None and found["ready"] >= 2, found
    assert found["time"] > 0.5 and found["width"] == 320 and abs(found["seconds"] - 10) < 0.2, found
    assert found["sound"] > 0 and found["pictures"] > 5, found
