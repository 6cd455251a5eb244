"""A tab of a headless Chromium, and what a user does in it."""

import base64
import json
import shutil
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 60  # s: what takes one is run beside others
FETCH = """
const [address, done] = arguments;
fetch(address).then(answer => answer.blob()).then(blob => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(',')[1]);
  reader.readAsDataURL(blob);
}).catch(error => done(null));
"""
PLAY = """
const [query, done] = arguments;
const video = document.querySelector(query);
video.muted = false;
video.currentTime = 0;
video.play().then(() => setTimeout(() => done({
  ready: video.readyState, time: video.currentTime, seconds: video.duration, error: video.error && video.error.message,
  sound: video.webkitAudioDecodedByteCount, pictures: video.webkitDecodedFrameCount, width: video.videoWidth,
}), 1500), error => done({error: String(error)}));
"""


def chromium(profile):
    """Headless, with its files in a folder, a camera that shows a test picture, and no way to any other machine."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--window-size=1280,1000",
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(profile / "downloads")})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(PATIENCE)
    return driver


class Tab:
    """The page at `url`; files are sent from `material`."""

    def __init__(self, driver, url, material):
        self.driver, self.material = driver, Path(material)
        driver.switch_to.new_window("tab")
        self.handle = driver.current_window_handle
        driver.execute_cdp_cmd("Network.enable", {})
        driver.get(url)
        self.wait(lambda: self.all("#go") and self.all("#video input[type=file]"))

    def close(self):
        self.show()
        self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    def show(self):
        self.driver.switch_to.window(self.handle)

    def all(self, query):
        return self.driver.find_elements(By.CSS_SELECTOR, query)

    def one(self, query):
        return self.driver.find_element(By.CSS_SELECTOR, query)

    def text(self, query):
        return " ".join(part.text for part in self.all(query))

    def wait(self, condition, words="", patience=PATIENCE):
        """Wait until the condition holds; the error quotes the page."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            try:
                if value := condition():
                    return value
            except Exception as error:
                if "stale" not in str(error):
                    raise
            time.sleep(0.1)
        raise AssertionError(f"{words or 'waited in vain'}; the page says: {self.text('body')[:2000]}")

    def send(self, name, field="#video"):
        self.one(f"{field} input[type=file]").send_keys(str(self.material / name))

    def notice(self, kind, query="#notice"):
        """The line of this kind, once it is there: 'status' or 'alert'."""
        return self.wait(lambda: self.text(f"{query} [role={kind}]"), f"no {kind}")

    def run(self):
        """Run the model on the video that was sent; the line on the run."""
        self.notice("status")
        self.wait(self.one("#go").is_enabled)
        self.click("#go")
        self.wait(lambda: "looked at" in self.text("#notice") or self.all("#notice [role=alert]"), "no result")
        self.wait(lambda: self.source("#still img") and self.source("#overlay video"), "nothing is shown")
        return self.text("#notice")

    def click(self, query):
        element = self.one(query)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def drag(self, query, share):
        """Drag a slider's knob to a share of its width."""
        slider = self.one(f"{query} input[type=range]")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
        low, high, now = (float(slider.get_attribute(key)) for key in ("min", "max", "value"))
        width = slider.size["width"] - 16
        begin = round(((now - low) / (high - low) - 0.5) * width)
        mouse = ActionChains(self.driver).move_to_element_with_offset(slider, begin, 0).click_and_hold()
        mouse.move_by_offset(round((share - 0.5) * width) - begin, 0).release().perform()
        return float(slider.get_attribute("value"))

    def source(self, query):
        found = self.all(query)
        return found[0].get_attribute("src") if found else None

    def fetch(self, address):
        """What is at an address, fetched by the page."""
        content = self.driver.execute_async_script(FETCH, address)
        return None if content is None else base64.b64decode(content)

    def picture(self, query):
        """The bytes of the picture that is shown, once it is there."""
        return self.wait(lambda: (address := self.source(query)) and self.fetch(address), f"no picture in {query}")

    def download(self, query):
        """Press a button that downloads; the file, once it is whole."""
        folder = Path(self.driver.capabilities["chrome"]["userDataDir"]) / "downloads"
        before = set(folder.glob("*"))
        self.click(query)
        return self.wait(lambda: next((f for f in set(folder.glob("*.zip")) - before), None), "nothing is downloaded")

    def play(self, query):
        """Play a video for one and a half seconds, and what the browser says of it then."""
        self.wait(lambda: self.source(query), f"no video in {query}")
        return self.driver.execute_async_script(PLAY, query)

    def traffic(self):
        """All that the page asked for since the last call: address, and the text of the answer where it has one."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append((message["params"]["request"]["url"], message["params"]["requestId"]))
        texts = []
        for address, number in found:
            try:
                answer = self.driver.execute_cdp_cmd("Network.getResponseBody", {"requestId": number})
                texts.append((address, "" if answer["base64Encoded"] else answer["body"]))
            except Exception:
                texts.append((address, ""))
        return texts
