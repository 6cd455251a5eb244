"""The same scan as public code does it, for comparison: cross-scan copies, delta whole, and a Python loop over tokens.

`torch_loop` is that in plain torch, written here. `mamba_ssm_loop()` is the reference function of the installed
package mamba_ssm between the same copies.
"""

import ast
import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from avsmamba.ops.scan_mamba_ssm import materialised_scan

Scan = Callable[..., Tensor]


def torch_loop(*args, unbound: bool = False) -> Tensor:
    """Run the materialised scan; arguments as in `multi_directional_scan`.

    Each step takes its slice of the whole decay and input tensors, as public code does: in the backward pass each
    slice gives a whole tensor of zeros but for one token. `unbound` takes all slices at once, which avoids that.
    """
    return materialised_scan(functools.partial(_loop, unbound=unbound), *args)


def _loop(u, delta, A, B, C, D, delta_bias, delta_softplus: bool, unbound: bool) -> Tensor:
    """Scan with the arguments of mamba_ssm's `selective_scan_fn`: `(b, K E, L)` tokens, B and C `(b, K, N, L)`."""
    groups = (B.shape[1], -1)
    raw = delta + delta_bias[:, None]
    delta = (F.softplus(raw) if delta_softplus else raw).unflatten(1, groups)
    xs, A, D = u.unflatten(1, groups), A.unflatten(0, groups), D.unflatten(0, groups)
    decay = torch.exp(torch.einsum("bkel,ken->bkeln", delta, A))
    gain = torch.einsum("bkel,bknl,bkel->bkeln", delta, B, xs)
    h = u.new_zeros(decay.shape[:3] + decay.shape[4:])
    ys = []
    if unbound:
        for decay_i, gain_i, c in zip(decay.unbind(3), gain.unbind(3), C.unbind(3), strict=True):
            h = decay_i * h + gain_i
            ys.append(torch.einsum("bken,bkn->bke", h, c))
    else:
        for i in range(u.shape[2]):
            h = decay[:, :, :, i] * h + gain[:, :, :, i]
            ys.append(torch.einsum("bken,bkn->bke", h, C[:, :, :, i]))
    return (torch.stack(ys, dim=-1) + D[None, :, :, None] * xs).flatten(1, 2)


def mamba_ssm_loop() -> Scan | None:
    """Return the scan by mamba_ssm's `selective_scan_ref`, or None where the package is not installed.

    The package does not import without its CUDA part, so the one function is taken out of its source.
    """
    spec = find_spec("mamba_ssm")
    path = Path(*spec.submodule_search_locations, "ops", "selective_scan_interface.py") if spec else None  # type: ignore[misc]
    if path is None or not path.is_file():
        return None
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "selective_scan_ref"]
    if not tree.body:
        return None
    from einops import rearrange, repeat

    names: dict = {"torch": torch, "F": F, "rearrange": rearrange, "repeat": repeat}
    exec(compile(tree, str(path), "exec"), names)
    return functools.partial(materialised_scan, names["selective_scan_ref"])


def loop_bytes(batch: int, length: int, directions: int, channels: int, states: int) -> int:
    """Count the bytes of the decay and input tensors of such a scan, its least memory."""
    return 8 * batch * length * directions * channels * states
