import pytest

import avsmamba
from avsmamba.datasets.sounding_shapes import make_sounding_shapes
from tests.apis.tiny import AVSS, CONFIG, SMALL, write_checkpoint
from tests.engine.conftest import one_thread, same_environment, short  # noqa: F401


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    make_sounding_shapes(root, "ms3", {"train": 6, "val": 1, "test": 4}, size=40, seed=1)
    make_sounding_shapes(root, "s4", {"train": 1, "test": 2}, size=40, seed=1)
    make_sounding_shapes(root, "avss", {"train": 1, "test": 3}, size=40, seed=1)
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth")


@pytest.fixture(scope="session")
def model(checkpoint):
    """The small model of one class, with random weights."""
    return avsmamba.load_model(CONFIG, checkpoint, device="cpu", options=SMALL)


@pytest.fixture(scope="session")
def semantic(tmp_path_factory):
    """The small model of several classes, with random weights."""
    path = write_checkpoint(tmp_path_factory.mktemp("semantic") / "avss.pth", config=AVSS)
    return avsmamba.load_model(AVSS, path, device="cpu", options=SMALL)
