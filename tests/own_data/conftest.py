"""Three short videos with known masks at every picture."""

import pytest

from tests.own_data.clips import NAMES, write_video


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with `dog.mp4`, `cat.mp4` and `owl.mp4`: 7 s of 5 pictures a second, with sound."""
    folder = tmp_path_factory.mktemp("own") / "videos"
    folder.mkdir()
    for name in NAMES:
        write_video(folder / f"{name}.mp4")
    return folder
