"""The CUDA kernels on a GPU: the emulation's checks, and what only a GPU shows."""

import pytest
import torch

from avsmamba.ops import available_backends, multi_directional_scan
from tests.cuda_emulation.checks import CASES, TOLERANCES, check
from tests.ops.conftest import relative_error, scan_inputs

REASON = "no NVIDIA GPU here" if not torch.cuda.is_available() else "avsmamba._cuda was not built (FORCE_CUDA=1)"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif("cuda" not in available_backends(), reason=REASON)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("case", list(CASES))
def test_kernels_equal_the_float64_reference(case, dtype, deterministic):
    check(torch.ops.avsmamba_cuda, case, dtype, deterministic, device="cuda")


def test_gradcheck():
    inputs, order = scan_inputs(2, 70, 5, 2, 3, 2, torch.float64)
    inputs = [t.cuda().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(
        lambda *t: multi_directional_scan(*t, order.cuda(), (3, 60)), inputs, fast_mode=True
    )


def test_a_long_sequence_and_the_deterministic_mode():
    inputs, order = scan_inputs(1, 3000, 512, 8, 16, 16)
    inputs, order = [t.cuda().requires_grad_() for t in (t.detach() for t in inputs)], order.cuda()

    def outcome():
        y = multi_directional_scan(*inputs, order, backend="cuda")
        return y, *torch.autograd.grad(y.square().sum(), inputs)

    atomic = outcome()
    try:
        torch.use_deterministic_algorithms(True)
        first, second = outcome(), outcome()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(atomic, first, strict=True))


def test_the_current_stream_is_used():
    inputs, order = scan_inputs(2, 500, 64, 4, 16, 4)
    inputs, order = [t.cuda() for t in inputs], order.cuda()
    expected = multi_directional_scan(*inputs, order)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = inputs[0].clone()
        got = multi_directional_scan(late, *inputs[1:], order)
    stream.synchronize()
    assert relative_error(got, expected) < 1e-6
