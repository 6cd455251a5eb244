"""The page as a user has it: a real browser, a real server, a small model that listens."""

import json
import time
import zipfile

import cv2
import numpy as np
import pytest

from tests import ROOT

pytest.importorskip("gradio")
pytest.importorskip("selenium")


def decoded(picture):
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).astype(int)


def test_run_move_the_slider_and_mute(tab, server):
    tab.send("two tones.mp4")
    said = tab.notice("status")
    assert said.startswith("two tones.mp4: 3.0 s") and "/" not in said and "160 x 120" in said and "16000 Hz" in said
    said = tab.run()
    assert "3 pictures looked at by listener" in said

    played = tab.play("#overlay video")
    assert played.pop("error") is None and played["ready"] >= 2 and played["time"] > 0.5
    assert played["sound"] > 0 and played["pictures"] > 3 and played["width"] == 160
    assert played["seconds"] == pytest.approx(3, abs=0.15)
    assert tab.picture("#timeline img").startswith(b"\x89PNG")

    # The slider: the picture changes at once, the overlay when it is let go, and the model does not run.
    still, overlay, figures = tab.picture("#still img"), tab.source("#overlay video"), tab.text("#numbers")
    moved = tab.drag("#threshold", 0.9)
    assert 0.8 < moved < 0.98
    tab.wait(lambda: tab.picture("#still img") != still, "the picture stays")
    tab.wait(lambda: tab.text("#numbers") != figures, "the figures stay")
    tab.wait(lambda: tab.source("#overlay video") != overlay, "the overlay stays")
    assert np.abs(decoded(tab.picture("#still img")) - decoded(still)).max() > 60
    assert tab.text("#notice") == said
    assert tab.play("#overlay video")["time"] > 0.5

    # Another moment is another picture.
    still = tab.picture("#still img")
    tab.drag("#moment", 0.0 if float(tab.one("#moment input[type=range]").get_attribute("value")) else 1.0)
    tab.wait(lambda: tab.picture("#still img") != still, "the picture stays")

    # Mute: the same pictures with silence, beside those with the sound.
    tab.drag("#threshold", 0.5)
    tab.click("#swap")
    tab.wait(lambda: "silence" in tab.text("#change"), "no comparison")
    tab.wait(lambda: tab.source("#own img") and tab.source("#other img"))
    assert np.abs(decoded(tab.picture("#own img")) - decoded(tab.picture("#other img"))).max() > 60
    rows = [row.text for row in tab.all("#change tr")]
    assert [row for row in rows if row.startswith("overlap")] and "silence" in rows[0]
    played = tab.play("#swapped video")
    assert played["time"] > 0.5 and not played["sound"]

    # Another sound: the overlay beside has that one.
    muted = tab.picture("#other img")
    tab.driver.execute_script("document.querySelectorAll('#sound input')[1].click()")
    tab.wait(lambda: tab.all("#file input[type=file]"))
    tab.send("noise.wav", "#file")
    tab.wait(lambda: "noise.wav" in tab.text("#file").replace("\n", ""))
    tab.click("#swap")
    tab.wait(lambda: "noise.wav" in tab.text("#change"), "no comparison")
    tab.wait(lambda: tab.picture("#other img") != muted)
    assert tab.play("#swapped video")["sound"] > 0

    pack = zipfile.ZipFile(tab.download("#download"))
    names = set(pack.namelist())
    assert {f"two tones/{name}" for name in ("overlay.mp4", "masks.json", "timeline.png", "about.txt")} <= names
    assert sum(name.startswith("two tones/masks/") for name in names) == 3
    assert "two tones/other_sound/masks.json" in names
    assert len(json.loads(pack.read("two tones/masks.json"))["videos"][0]["times"]) == 3
    for name in names:
        if not name.endswith((".png", ".mp4")):
            assert str(server.folder).encode() not in pack.read(name)
    nothing_leaks(tab, server)


def nothing_leaks(tab, server):
    """All that was asked for was asked of the server, and no answer names a folder of it."""
    secrets = [str(server.folder), str(ROOT), server.folder.name]
    traffic = tab.traffic()
    assert len([address for address, text in traffic if text]) > 5
    for address, text in traffic:
        # The browser's own first page is no part of this.
        assert address.startswith((server.url, "data:", "blob:" + server.url, "chrome:")), address
        for secret in secrets:
            assert secret not in text and secret not in address, f"{address} contains {secret}"
    page = tab.driver.page_source
    assert not any(secret in page for secret in secrets)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken.mp4", "broken.mp4: "),
        ("sound only.mp4", "sound only.mp4: has no pictures (only sound); expected a video"),
        ("long.mp4", "long.mp4: is too long: 14.6 s; this page takes up to 12 s"),
    ],
)
def test_a_video_that_cannot_be_used_is_reported_in_one_line(tab, name, words):
    tab.send(name)
    said = tab.notice("alert")
    assert words in said and "/" not in said and "Traceback" not in said
    assert not tab.one("#go").is_enabled()


def test_a_file_that_is_too_large_is_refused(tab, server):
    tab.send("large.mp4")
    said = tab.wait(lambda: tab.text("[data-testid=toast-body], .toast-body"), "no message")
    assert "maximum allowed size of 2.0 Mb" in said and "large.mp4" in said
    assert not tab.one("#go").is_enabled() and not [f for f in server.files() if f.name == "large.mp4"]


def test_two_tabs_run_at_once_and_leave_nothing(browser, server, material, tab):
    from tests.web.browser import Tab

    second = Tab(browser, server.url, material)
    for each, name in ((tab, "two tones.mp4"), (second, "mute.webm")):
        each.show()
        each.send(name)
        assert ("no sound" in each.notice("status")) == (name == "mute.webm")
    for each in (tab, second):
        each.show()
        each.wait(each.one("#go").is_enabled)
        each.click("#go")
    for each, name in ((tab, "two tones.mp4"), (second, "mute.webm")):
        each.show()
        each.wait(lambda each=each, name=name: f"{name}: " in each.text("#notice") and "looked" in each.text("#notice"))
    assert [path for path in server.files() if path.name == "mute.webm"]
    second.close()
    end = time.monotonic() + 60
    while left := [path for path in server.files() if path.name.startswith("mute")]:
        assert time.monotonic() < end, f"left of a tab that was closed: {left}"
        time.sleep(0.2)
    tab.show()
    assert tab.play("#overlay video")["time"] > 0.5


def test_the_example_clip_is_run(tab, server):
    tab.click("#example")
    assert tab.notice("status").startswith("sample.mp4: 10.0 s, 320 x 320")
    assert tab.play("#video video")["sound"] > 0
    assert "10 pictures looked at" in tab.run()
    assert [path for path in server.files() if path.name == "sample.mp4"]
    nothing_leaks(tab, server)


def test_a_tab_that_is_closed_during_a_run_leaves_nothing(browser, server, material):
    from tests.web.browser import Tab

    tab = Tab(browser, server.url, material)
    tab.click("#example")
    tab.notice("status")
    tab.wait(tab.one("#go").is_enabled)
    tab.click("#go")
    tab.wait(lambda: [path for path in server.files() if "frames" in path.parts])
    tab.close()
    end = time.monotonic() + 60
    while left := [path for path in server.files() if "sessions" in path.parts]:
        assert time.monotonic() < end, f"left of a tab that was closed: {left}"
        time.sleep(0.2)
    assert "Traceback" not in "".join(server.log)
    assert [path for path in server.files() if path.name == "sample.mp4"]


def test_a_recording_is_taken(tab):
    tab.click("#video [aria-label='Capture from camera']")
    tab.wait(lambda: "Access Webcam" in tab.text("#video"))
    tab.click("#video button")
    tab.wait(lambda: tab.all("#video [aria-label='start recording']"))
    tab.wait(lambda: tab.driver.execute_script("return document.querySelector('#video video').currentTime > 1"))
    tab.click("#video [aria-label='start recording']")
    stop = tab.wait(lambda: next((button for button in tab.all("#video button") if button.text == "Stop"), None))
    time.sleep(4)
    stop.click()
    tab.wait(lambda: tab.text("#notice"))
    assert "sound at" in tab.text("#notice")
    assert "looked at" in tab.run()


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_window(tab, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    tab.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        tab.send("two tones.mp4")
        tab.run()
        assert tab.driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
