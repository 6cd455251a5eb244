"""Three short videos with known masks at every picture."""

import shutil

import pytest

from tests.own_data.clips import NAMES, write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with `dog.mp4`, `cat.mp4` and `owl.mp4`: 7 s of 5 pictures a second, with sound."""
    folder = tmp_path_factory.mktemp("own") / "videos"
    folder.mkdir()
    write_video(folder / "cat.mp4")
    for name in NAMES[1:]:
        shutil.copy(folder / "cat.mp4", folder / f"{name}.mp4")
    return folder
