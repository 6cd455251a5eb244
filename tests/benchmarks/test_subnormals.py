"""The counter of instructions that meet subnormal numbers, on operations of which that is known."""

import pytest
import torch

from benchmarks import subnormals


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    if (lacking := subnormals.missing()) is not None:
        pytest.skip(lacking)
    return subnormals.build(tmp_path_factory.mktemp("counter"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("value", "factor", "meets"), [(1e-40, 1.0, True), (1e-37, 0.01, True), (1e-30, 0.01, False)])
def test_operands_and_results_count(counter, value, factor, meets):
    x = torch.full((640,), value)
    with subnormals.Counted(counter) as counted:
        y = x * factor
    assert bool(counted.met["mul"]) == meets and counted.met["mul"] <= len(x)
    assert torch.equal(y, torch.full((640,), value) * factor) and (y != 0).all()


def test_the_decoder_s_backward_meets_none_outside_the_kernels(counter):
    loss = subnormals.decoder_loss((12, 6), 3.0, channels=32)
    with subnormals.Counted(counter) as counted:
        loss.backward()
    assert "mm" in counted.met and counted.met.total() == 0, counted.met
