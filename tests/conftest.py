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

# Files and tests that ask for minutes: not part of `make test`, which `make test-slow` follows.
SLOW = (
    "tests/benchmarks/test_data_loading.py",
    "tests/benchmarks/test_instructions.py",
    "tests/benchmarks/test_scripts.py",
    "tests/benchmarks/test_soak.py::test_a_training",
    "tests/checkpoint/test_released.py::test_the_model_gives_what_the_reference_gives",
    "tests/engine/test_distributed.py::test_three_processes",
    "tests/engine/test_gradients.py",
    "tests/engine/test_kill.py",
    "tests/engine/test_sharding.py",
    "tests/engine/test_two_machines.py",
    "tests/datasets/shards/test_write.py::test_processes_write_the_same_bytes",
    "tests/export/test_write.py",
    "tests/model_zoo/test_publish.py::test_the_tool",
    "tests/models/baselines/test_ecmvae.py::test_dry_run",
    "tests/models/test_compile.py",
    "tests/ops/test_portable.py",
    "tests/reports/test_compare.py::test_killed_and_continued",
    "tests/reports/test_zoo.py::test_the_page_is_up_to_date",
    "tests/test_site.py",
    "tests/test_tutorial.py",
    "tests/web/test_page.py",
    "tests/web/test_sample.py",
    "tests/web/test_server.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the slow tests, before `-m` chooses."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)


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
