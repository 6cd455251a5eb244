"""Gradients of DDP and FSDP2 over two and three processes equal those of one process on the whole batch."""

import pytest
import torch

from tests.engine.gradients import CASES, gradients
from tests.engine.test_distributed import launch


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {case: gradients(case) for case in CASES}


def distance(found, expected):
    """Return the largest difference of all gradients, over the largest gradient."""
    assert found.keys() == expected.keys()
    largest = max(g.abs().max() for g in expected.values())
    return float(max((found[name] - expected[name]).abs().max() for name in expected) / largest)


@pytest.mark.parametrize("processes", [2, 3])
def test_gradients_of_several_processes_equal_one_process_s(tmp_path, processes, alone):
    launch(processes, "tests.engine.gradients", tmp_path / "gradients.pth")
    found = torch.load(tmp_path / "gradients.pth", weights_only=True)
    distances = {case: distance(found[case], alone[case]) for case in CASES}
    assert max(distances.values()) < 1e-10, distances
    assert distance(found["fully_sharded"], alone["uneven_labels"]) < 1e-10
    # A batch normalisation that trains has statistics of its process's part, unless sync_bn is set.
    own = gradients("ms3", statistics="own")
    assert distance(found["own_statistics"], own) > 1e-4
    frozen = [name for name in own if name not in found["frozen_backbone"]]
    assert frozen and all(name.startswith("backbone.") for name in frozen)
