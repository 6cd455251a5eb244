"""What the CUDA kernels must do, emulated or on a GPU: the same checks for both."""

import torch

from avsmamba.ops import scan_cuda
from avsmamba.ops.scan_reference import reference_scan, reference_scan_backward
from tests.ops.conftest import NAMES, relative_error, scan_inputs

CASES = {  # (b, L, E, K, N, R), (out_start, out_length)
    "one of everything": ((1, 1, 1, 1, 1, 1), (0, 1)),
    "short of a lane": ((2, 5, 4, 2, 3, 2), (1, 3)),
    "N 1": ((2, 65, 33, 4, 1, 1), (0, 65)),
    "N 3, audio last": ((2, 31, 31, 4, 3, 2), (30, 1)),
    "N 4, audio first": ((1, 33, 65, 12, 4, 16), (3, 30)),
    "N 16": ((1, 129, 37, 3, 16, 16), (0, 129)),
    "N 16, a tile without output": ((1, 200, 20, 1, 16, 2), (70, 60)),
    "N 17, R 9": ((2, 64, 40, 2, 17, 9), (5, 41)),
    "many tiles": ((1, 330, 9, 5, 4, 1), (0, 330)),
}
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5, torch.float64: 1e-13}


def surrounded(t, last_axis=True):
    """Return the same values with NaN before, after and between the rows, which shows reads beyond them."""
    batch, *middle, row = t.shape
    if not last_axis:
        wide = torch.full((batch + 2, *middle, row), torch.nan, dtype=t.dtype)
        wide[1:-1] = t
        return wide[1:-1]
    wide = torch.full((batch + 2, *middle, row + 3), torch.nan, dtype=t.dtype)
    wide[1:-1, ..., 1:-2] = t
    return wide[1:-1, ..., 1:-2]


def problem(shape, dtype, out):
    """Return inputs, an order, and a gradient of the output."""
    inputs, order = scan_inputs(*shape, dtype)
    if out[1] == 1:  # as in V2A: the wanted token comes last in every direction
        order = torch.stack([torch.cat([row[row != out[0]], row[row == out[0]]]) for row in order])
    inputs = [surrounded(t, last_axis=i < 4) for i, t in enumerate(inputs)]
    dy = torch.randn(shape[0], out[1], shape[2], generator=torch.Generator().manual_seed(1)).to(dtype)
    return inputs, order, surrounded(dy, last_axis=False)


def run(kernels, inputs, order, dy, out, deterministic, device="cpu"):
    """Return y and the eight gradients."""
    inputs, order, dy = [t.to(device) for t in inputs], order.to(device), dy.to(device)
    y = scan_cuda.forward(kernels, *inputs, order, *out, deterministic)
    return [t.cpu() for t in (y, *scan_cuda.backward(kernels, dy, *inputs, order, *out, deterministic))]


def deviations(got, inputs, order, dy, out):
    """Return the deviations of y and each gradient from the float64 reference, beyond the dtype's rounding."""
    wide = [t.double() for t in inputs]
    expected = [reference_scan(*wide, order, out), *reference_scan_backward(dy.double(), *wide, order, out)]
    errors = {}
    for name, g, e in zip(("y", *NAMES), got, expected, strict=True):
        assert g.shape == e.shape, name
        rounding = torch.finfo(g.dtype).eps / 2 if g.dtype.itemsize == 2 else 0
        errors[name] = relative_error(g, e) - rounding
    return errors


def check(kernels, case, dtype, deterministic, device="cpu"):
    shape, out = CASES[case]
    inputs, order, dy = problem(shape, dtype, out)
    errors = deviations(run(kernels, inputs, order, dy, out, deterministic, device), inputs, order, dy, out)
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCES[dtype]}
    assert not wrong
