"""One thread, the random state and the environment of before, and no naps."""

import os

import pytest
import torch

from tests.datasets.conftest import avsbench, avss, original, original_avss  # noqa: F401


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda s: None)  # mmengine sleeps two seconds when a pass over the data ends


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    monkeypatch.delenv("AVSBENCH_ROOT", raising=False)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
