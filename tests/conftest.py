"""For all tests: the same random numbers in every run, NaN in uninitialized memory, threads that sleep soon."""

import os
import signal
from importlib.util import find_spec

# Before torch is loaded: tests run several programs on few cores.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import hypothesis
import pytest
import torch

# The operator's tests also run where torch is the only one of the packages (tests/test_wheel.py).
pytest_plugins = ["tests.fixtures"] if find_spec("mmengine") else []

# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C; some of them send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class TorchRandom:
    """Torch's generator as hypothesis wants one: seeded before each example, so that a failure can be replayed."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


TORCH_RANDOM = TorchRandom()
hypothesis.register_random(TORCH_RANDOM)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill what `torch.empty` and its relatives return, in C++ too, with NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
