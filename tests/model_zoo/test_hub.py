"""Upload to and download from a hub on this machine, through huggingface_hub's own requests."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

import avsmamba
from avsmamba.cli import main
from avsmamba.model_zoo.folder import FILES, read_folder
from avsmamba.model_zoo.hub import upload
from avsmamba.utils import UserError
from tests import ROOT
from tests.model_zoo.fake_hub import FakeHub

DOWNLOAD = """
import sys
from avsmamba.model_zoo.hub import download

try:
    print(download(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A hub with no models, to which huggingface_hub is directed, and an empty cache."""
    hub = FakeHub()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", FakeHub.TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # the next one reads NO_PROXY
    yield hub
    hub.stop()


def test_a_model_goes_to_the_hub_and_comes_back(fake, publish, tmp_path, monkeypatch):
    folder = publish(tmp_path / "toy", hub="user/toy")
    assert fake.requests == []
    assert upload(folder, "user/toy") == f"{fake.url}/user/toy"
    assert fake.files["user/toy"] == {name: (folder / name).read_bytes() for name in FILES}
    assert fake.messages == [f"avsmamba publish, version {avsmamba.__version__}"]
    assert b'load_model("user/toy")' in fake.files["user/toy"]["README.md"]
    monkeypatch.delenv("HF_TOKEN")
    fake.files["user/toy"]["big.bin"] = b"not ours"
    first = avsmamba.load_model("user/toy")
    assert all("big.bin" not in request for request in fake.requests if "resolve" in request)
    own = avsmamba.load_model(folder)
    for name, value in first.model.state_dict().items():
        assert value.equal(own.model.state_dict()[name])
    # In offline mode the cache is enough; another name, and another revision, are errors of one line.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(fake.requests)
    assert avsmamba.load_model("hf://user/toy").num_frames == first.num_frames
    for word in ("user/other", "user/toy@v2"):
        with pytest.raises(UserError, match=r"^user/\w+: not complete in the cache .*HF_HUB_OFFLINE forbids") as error:
            avsmamba.load_model(word)
        assert "\n" not in str(error.value)
    assert len(fake.requests) == asked


def test_without_a_network_the_cache_is_read(fake, publish, tmp_path):
    upload(publish(tmp_path / "toy"), "user/toy")
    avsmamba.load_model("user/toy")
    fake.stop()
    assert avsmamba.load_model("user/toy").num_frames == 5
    with pytest.raises(
        UserError, match=r"^user/other: http://127\.0\.0\.1:\d+ cannot be reached, and the model is not"
    ):
        avsmamba.load_model("user/other")
    with pytest.raises(UserError, match=r"^user/toy: http://127\.0\.0\.1:\d+: \w*Connect\w*: "):
        upload(tmp_path / "toy", "user/toy")


def test_a_damaged_download_is_refused(fake, publish, tmp_path):
    upload(publish(tmp_path / "toy"), "user/toy")
    content = fake.files["user/toy"]["model.safetensors"]
    fake.files["user/toy"]["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(UserError, match=r"model\.safetensors: is not the file that was published"):
        avsmamba.load_model("user/toy")


def test_unknown_models_and_revisions(fake, publish, tmp_path):
    with pytest.raises(UserError, match=r"^user/nope: no such folder, and no such model on http://127.*HF_TOKEN"):
        avsmamba.load_model("user/nope")
    upload(publish(tmp_path / "toy"), "user/toy")
    with pytest.raises(UserError, match=r"^user/toy: .* has no such revision"):
        avsmamba.load_model("user/toy@v9")
    del fake.files["user/toy"]["card.json"]
    with pytest.raises(UserError, match=r"has no card\.json; expected a folder of avsmamba publish"):
        avsmamba.load_model("user/toy")


def test_an_upload_without_a_token_is_refused(fake, publish, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"^user/toy: http://127.*401") as error:
        upload(publish(tmp_path / "toy"), "user/toy")
    assert "\n" not in str(error.value) and fake.files == {}


def test_private_repositories(fake, publish, tmp_path):
    folder = publish(tmp_path / "toy")
    upload(folder, "user/mine", private=True)
    assert fake.private == {"user/mine"} and set(fake.files["user/mine"]) == {*FILES}
    upload(folder, "user/mine", private=True)  # again
    fake.files["user/known"] = {}
    with pytest.raises(UserError, match="user/known: is public"):
        upload(folder, "user/known", private=True)
    assert fake.files["user/known"] == {}


def run_download(repository, environment):
    """Download in a process of its own; the library reads the environment when it is imported."""
    command = [sys.executable, "-c", DOWNLOAD, repository]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **environment}
    ).stdout.splitlines()


def test_the_environment_says_which_server_and_whether_offline(fake, publish, tmp_path):
    upload(publish(tmp_path / "toy"), "user/toy")
    environment = {"HF_ENDPOINT": fake.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    (folder,) = run_download("user/toy", environment)
    assert folder.startswith(str(tmp_path / "cache")) and read_folder(Path(folder)).name == "toy"
    asked = len(fake.requests)
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert run_download("user/toy", offline) == [folder]
    (message,) = run_download("user/nope", offline)
    assert message.startswith("UserError user/nope: not complete in the cache") and len(fake.requests) == asked


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"^user/toy: models of the hub require huggingface_hub: pip install"):
        avsmamba.load_model("user/toy")


def test_the_command_sends_nothing_unless_asked(fake, trained, tmp_path, capsys):
    command = ["publish", str(trained / "small.yaml"), str(trained / "iter_7.pth"), "--out", str(tmp_path / "toy")]
    assert main(command) == 0 and fake.requests == []
    capsys.readouterr()
    assert main([*command, "--push-to-hub", "user/toy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{fake.url}/user/toy"
    assert read_folder(tmp_path / "toy").card["hub"] == "user/toy" and set(fake.files["user/toy"]) == {*FILES}
    for words, message in (
        (["--push-to-hub", "toy"], "--push-to-hub: expected USER/NAME, got 'toy'"),
        (["--private"], "--private: expected --push-to-hub"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *words])
        assert ended.value.code == 2 and message in capsys.readouterr().err
