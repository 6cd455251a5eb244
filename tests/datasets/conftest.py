import shutil

import pytest
import torch

from tests.datasets.trees import write_avsbench, write_avss


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("avsbench")
    write_avsbench(root, "ms3", log_mel=["train_0", "test_1"])
    return write_avsbench(root, "s4")


@pytest.fixture(scope="session")
def original_avss(tmp_path_factory):
    return write_avss(tmp_path_factory.mktemp("avss"))


@pytest.fixture
def avss(tmp_path, original_avss):
    """AVSS in a folder of its own, free to be broken."""
    return shutil.copytree(original_avss, tmp_path / "avss")


@pytest.fixture
def avsbench(tmp_path, original):
    """Both subsets in a folder of their own, free to be broken. In MS3 two clips have log-mel files, in S4 all."""
    return shutil.copytree(original, tmp_path / "avsbench")
