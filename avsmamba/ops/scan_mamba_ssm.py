"""Backend `mamba_ssm`: the scan by mamba_ssm's CUDA kernel, for comparison.

That kernel scans `(b, d, l)` tensors from left to right. So each direction gets a permuted copy of the tokens, of B and
of C, K directions are K groups of channels of one call, delta is computed before it, and the K outputs are reordered
and added up: `multi_directional_scan` needs none of these steps.
"""

import functools
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from avsmamba.utils import one_line

INTERFACE = "mamba_ssm.ops.selective_scan_interface"


def what_is_missing() -> str | None:
    """Return why the backend cannot run here, in one phrase, or None."""
    if find_spec("mamba_ssm") is None:
        return "not installed (`pip install mamba-ssm`; needs nvcc)"
    if not torch.cuda.is_available():
        return "it runs on a GPU, and there is none here"
    error = _load()[1]
    return None if error is None else f"installed, but does not load: {error}"


def scan(x: Tensor, *arguments: Any) -> Tensor:
    """Scan with mamba_ssm's `selective_scan_fn`; shapes as in `multi_directional_scan`, parameters float32.

    Raises:
        RuntimeError: if mamba_ssm cannot run here, or x is not on a GPU.
        ValueError: if x is float64.
    """
    problem = what_is_missing() or (None if x.device.type == "cuda" else f"x is on {x.device}")
    function = _load()[0] if problem is None else None
    if function is None:
        raise RuntimeError(f"backend: 'mamba_ssm' cannot run: {problem}")
    if x.dtype == torch.float64:
        raise ValueError("x: expected float32, bfloat16 or float16 for backend 'mamba_ssm', got torch.float64")
    return materialised_scan(function, x, *arguments)


def materialised_scan(
    function: Callable[..., Tensor],
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    order: Tensor,
    out: tuple[int, int],
) -> Tensor:
    """Scan with a function that takes the arguments of mamba_ssm's `selective_scan_fn`."""
    steps = order.long()

    def visited(t: Tensor) -> Tensor:
        """Return `(b, L, K, n)` in natural order as `(b, K, n, L)` in the order of each direction."""
        t = t.permute(0, 2, 3, 1)
        return t.gather(3, steps[:, None].expand(t.shape))

    tokens = visited(x[:, :, None].expand(-1, -1, len(steps), -1))
    # In x's dtype, which the kernel requires.
    delta = torch.einsum("bkrl,ker->bkel", visited(dt), dt_weight.to(x.dtype))
    y = function(
        tokens.flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        visited(B),
        visited(C),
        D.flatten(),
        delta_bias=dt_bias.flatten(),
        delta_softplus=True,
    ).view(tokens.shape)
    y = y.gather(3, steps.argsort(1)[:, None].expand(y.shape)).sum(1, dtype=A.dtype)
    return y[:, :, out[0] : sum(out)].transpose(1, 2).to(x.dtype).contiguous()


@functools.cache
def _load() -> tuple[Callable[..., Tensor] | None, str | None]:
    """Return the function, or the reason why it does not load. Imported late: mamba_ssm imports language models."""
    try:
        return importlib.import_module(INTERFACE).selective_scan_fn, None
    except Exception as error:  # its imports run other packages' code, which may raise any error
        return None, one_line(error)
