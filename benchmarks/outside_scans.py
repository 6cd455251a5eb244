"""The same scan as public code does it, for comparison: cross-scan copies, delta whole, and a Python loop over tokens.

`torch_loop` is that in plain torch, written here. `mamba_ssm_loop()` is the reference function of the installed
package mamba_ssm between the same copies.
"""

import ast
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

Scan = Callable[..., Tensor]


def torch_loop(x, dt, B, C, A, D, dt_weight, dt_bias, order, out, unbound: bool = False) -> Tensor:
    """The materialised scan; arguments as in `multi_directional_scan`.

    Each step takes its slice of the whole decay and input tensors, as public code does: in the backward pass each
    slice gives a whole tensor of zeros but for one token. `unbound` takes all slices at once, which avoids that.
    """
    xs, delta, Bs, Cs = _materialise(x, dt, B, C, dt_weight, dt_bias, order)
    delta = F.softplus(delta)
    decay = torch.exp(torch.einsum("bkel,ken->bkeln", delta, A))
    gain = torch.einsum("bkel,bknl,bkel->bkeln", delta, Bs, xs)
    h = x.new_zeros(decay.shape[:3] + decay.shape[4:])
    ys = []
    if unbound:
        for decay_i, gain_i, c in zip(decay.unbind(3), gain.unbind(3), Cs.unbind(3), strict=True):
            h = decay_i * h + gain_i
            ys.append(torch.einsum("bken,bkn->bke", h, c))
    else:
        for i in range(x.shape[1]):
            h = decay[:, :, :, i] * h + gain[:, :, :, i]
            ys.append(torch.einsum("bken,bkn->bke", h, Cs[:, :, :, i]))
    return _merge(torch.stack(ys, dim=-1) + D[None, :, :, None] * xs, order, out)


def mamba_ssm_loop() -> Scan | None:
    """The scan by mamba_ssm's `selective_scan_ref`, or None where the package is not installed.

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
    selective_scan_ref = names["selective_scan_ref"]

    def scan(x, dt, B, C, A, D, dt_weight, dt_bias, order, out) -> Tensor:
        xs, delta, Bs, Cs = _materialise(x, dt, B, C, dt_weight, dt_bias, order)
        y = selective_scan_ref(
            xs.flatten(1, 2), delta.flatten(1, 2), A.flatten(0, 1), Bs, Cs, D.flatten(), delta_softplus=True
        )
        return _merge(y.view_as(xs), order, out)

    return scan


def loop_bytes(batch: int, length: int, directions: int, channels: int, states: int) -> int:
    """Of the decay and input tensors of such a scan: the least that it takes."""
    return 8 * batch * length * directions * channels * states


def _materialise(x, dt, B, C, dt_weight, dt_bias, order) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and delta before its softplus `(b, K, E, L)`, B and C `(b, K, N, L)`: copies in each direction's order."""
    steps = order.long()

    def gather(t: Tensor) -> Tensor:
        index = steps[None, :, None].expand(t.shape[0], -1, t.shape[3], -1)
        return t.permute(0, 2, 3, 1).gather(-1, index)

    xs = gather(x[:, :, None].expand(-1, -1, len(steps), -1))
    delta = torch.einsum("bkrl,ker->bkel", gather(dt), dt_weight) + dt_bias[None, :, :, None]
    return xs, delta, gather(B), gather(C)


def _merge(y: Tensor, order: Tensor, out: tuple[int, int]) -> Tensor:
    """Directions `(b, K, E, L)` back in natural order and summed: `(b, length, E)`."""
    back = order.long().argsort(dim=1)
    y = y.gather(-1, back[None, :, None].expand_as(y)).sum(1)
    return y.transpose(1, 2)[:, out[0] : out[0] + out[1]]
