"""`multi_directional_scan`, the one operator behind every scan of the paper (Eq. 3 and 4), and the paper's scans.

    delta_k = softplus(dt_k @ dt_weight_k^T + dt_bias_k)
    h = exp(delta_k A_k) h + delta_k B_k x,      y_k = C_k h + D_k x,      y = sum over k, in natural token order

It is registered with torch.library as `avsmamba::multi_directional_scan`, its backward as a second operator. On the CPU
the kernels of csrc/cpu run, on a GPU those of csrc/cuda; without compiled kernels, and on other devices, the plain
torch reference.
"""

import functools
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from avsmamba.ops import scan_cpu, scan_cuda, scan_mamba_ssm, scan_order
from avsmamba.ops.common import (
    HAS_CPU_KERNEL,
    HAS_CUDA_KERNEL,
    autocast_dtype,
    check_backend,
    refuse_tangents,
    state_dtype,
)
from avsmamba.ops.scan_reference import reference_scan, reference_scan_backward

BACKENDS = ("auto", "cpu", "cuda", "mamba_ssm", "torch")
_ARGUMENTS = (
    "Tensor x, Tensor dt, Tensor B, Tensor C, Tensor A, Tensor D, Tensor dt_weight, Tensor dt_bias, Tensor order, "
    "SymInt out_start, SymInt out_length"
)
_library = torch.library.Library("avsmamba", "DEF")
_library.define(
    f"multi_directional_scan({_ARGUMENTS}, bool keep_states=False) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"multi_directional_scan_backward(Tensor dy, Tensor states, {_ARGUMENTS}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_FORWARD, _BACKWARD = "avsmamba::multi_directional_scan", "avsmamba::multi_directional_scan_backward"


def available_backends() -> list[str]:
    """Return the values of `backend` that can run here, the fastest first."""
    runs = {
        "cuda": HAS_CUDA_KERNEL and torch.cuda.is_available(),
        "mamba_ssm": scan_mamba_ssm.what_is_missing() is None,
        "cpu": HAS_CPU_KERNEL,
        "torch": True,
    }
    return [name for name, can in runs.items() if can]


def multi_directional_scan(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    order: Tensor,
    out: tuple[int, int] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Scan one set of tokens in K orders with K state space models, and add up their outputs.

    x, dt, B and C share one dtype (float32, float64, bfloat16 or float16) and may be strided, as slices of one
    projection are. The state and all sums are float32, or float64 with float64 inputs; 16-bit inputs are widened a few
    tokens at a time. Parameters are cast to the state's dtype. Under autocast, x, dt, B and C are cast to autocast's
    dtype, except float64. The CPU kernels treat subnormal numbers as zeros, and, except in float64, gradients below
    2^-100 (docs/cpu_kernels.md).

    Args:
        x: `(b, L, E)` tokens in natural order.
        dt: `(b, L, K, R)` low-rank factor of delta, in natural order, as B and C are.
        B: `(b, L, K, N)`.
        C: `(b, L, K, N)`.
        A: `(K, E, N)`, negative.
        D: `(K, E)`.
        dt_weight: `(K, E, R)`.
        dt_bias: `(K, E)`.
        order: `(K, L)` int32; row k is the permutation of 0 … L - 1 in which direction k visits the tokens.
        out: (start, length) of the tokens whose output is returned; all by default. The others' is not computed.
        backend: 'auto', 'cpu' or 'cuda' (the compiled kernels), 'torch' (the reference, differentiable any number of
            times and in forward mode), or 'mamba_ssm' (that package's CUDA kernel on K copies, for comparison).

    Returns:
        `(b, L, E)`, or `(b, length, E)` with `out`, of x's dtype.

    Raises:
        ValueError: if a shape, dtype, device, the order or the range does not fit; the message names the argument.
        RuntimeError: if the requested backend cannot run; if a tensor has a tangent of forward-mode differentiation,
            which only 'torch' supports.
    """
    low = autocast_dtype(x)
    if low != x.dtype:
        x, dt, B, C = x.to(low), dt.to(low), B.to(low), C.to(low)
    start, length = _check(x, dt, B, C, A, D, dt_weight, dt_bias, order, out)
    state = state_dtype(x)
    check_backend(backend, BACKENDS, x)
    A, D, dt_weight, dt_bias = (t.to(state) for t in (A, D, dt_weight, dt_bias))
    inputs = x, dt, B, C, A, D, dt_weight, dt_bias
    if backend == "torch":
        wide = [*(t.to(state) for t in inputs), order, (start, length)]
        return reference_scan(*wide).to(x.dtype)
    refuse_tangents("multi_directional_scan", *inputs)
    if backend == "mamba_ssm":
        return scan_mamba_ssm.scan(*inputs, order, (start, length))
    train = torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not torch.compiler.is_exporting()
    return torch.ops.avsmamba.multi_directional_scan(*inputs, order, start, length, train)[0]


class ScanParameters(NamedTuple):
    """Arguments of `multi_directional_scan` between x and `order`; shapes as there."""

    dt: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    D: Tensor
    dt_weight: Tensor
    dt_bias: Tensor


def selective_scan_1d(x: Tensor, parameters: ScanParameters, reverse: bool = False) -> Tensor:
    """Scan a sequence `(b, L, E)` in one direction, from its first token or from its last (Vim)."""
    return multi_directional_scan(x, *parameters, scan_order.one_way(x.shape[1], reverse, x.device))


def selective_scan_2d(x: Tensor, parameters: ScanParameters, sizes: scan_order.Sizes) -> Tensor:
    """Scan the scales of one frame, `(b, sum h w, E)` where b counts frames, in four directions (Eq. 5-7)."""
    return multi_directional_scan(x, *parameters, scan_order.cross_scan_2d(sizes, x.device))


def selective_scan_3d(x: Tensor, parameters: ScanParameters, num_frames: int, sizes: scan_order.Sizes) -> Tensor:
    """Scan all frames and scales of a clip, `(b, sum T h w, E)`, in 2 to 12 directions (Eq. 8-10)."""
    order = scan_order.cross_scan_3d(num_frames, sizes, len(parameters.A), x.device)
    return multi_directional_scan(x, *parameters, order)


def selective_scan_v2a(x: Tensor, parameters: ScanParameters, num_frames: int, height: int, width: int) -> Tensor:
    """Scan from vision to audio: `(b, T h w + T, E)`, audio last, to the `(b, T, E)` outputs of the audio (Eq. 17).

    With one frame it is the scan of the frame level, where b counts frames (Eq. 13-14).
    """
    return multi_directional_scan(x, *parameters, *scan_order.v2a(num_frames, height, width, x.device))


def selective_scan_a2v(x: Tensor, parameters: ScanParameters, num_frames: int, height: int, width: int) -> Tensor:
    """Scan from audio to vision: `(b, T + T h w, E)`, audio first, to `(b, T h w, E)` visual outputs (Eq. 18-19)."""
    return multi_directional_scan(x, *parameters, *scan_order.a2v(num_frames, height, width, x.device))


def _check(x, dt, B, C, A, D, dt_weight, dt_bias, order, out) -> tuple[int, int]:
    """Return the range of requested tokens; raise a ValueError that names the wrong argument."""
    if x.ndim != 3:
        raise ValueError(f"x: expected (b, L, E), got {tuple(x.shape)}")
    if order.ndim != 2 or order.dtype != torch.int32:
        raise ValueError(f"order: expected (K, L) of int32, got {tuple(order.shape)} of {order.dtype}")
    if dt.ndim != 4 or B.ndim != 4:
        name, t = ("dt", dt) if dt.ndim != 4 else ("B", B)
        raise ValueError(f"{name}: expected four axes (b, L, K, …), got {tuple(t.shape)}")
    (batch, length, channels), directions = x.shape, order.shape[0]
    rank, states = dt.shape[3], B.shape[3]
    expected = {
        "dt": (dt, (batch, length, directions, rank)),
        "B": (B, (batch, length, directions, states)),
        "C": (C, (batch, length, directions, states)),
        "A": (A, (directions, channels, states)),
        "D": (D, (directions, channels)),
        "dt_weight": (dt_weight, (directions, channels, rank)),
        "dt_bias": (dt_bias, (directions, channels)),
        "order": (order, (directions, length)),
    }
    for name, (t, shape) in expected.items():
        if tuple(t.shape) != shape:
            raise ValueError(f"{name}: expected {shape} to go with x, dt, B and order, got {tuple(t.shape)}")
        if t.device != x.device:
            raise ValueError(f"{name}: expected on {x.device}, where x is, got {t.device}")
    if x.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(f"x: expected a floating dtype, got {x.dtype}")
    for name, t in (("dt", dt), ("B", B), ("C", C)):
        if t.dtype != x.dtype:
            raise ValueError(f"{name}: expected {x.dtype}, as x has, got {t.dtype}")
    for name, t in (("A", A), ("D", D), ("dt_weight", dt_weight), ("dt_bias", dt_bias)):
        if not t.dtype.is_floating_point or (t.dtype == torch.float64) != (x.dtype == torch.float64):
            raise ValueError(f"{name}: expected the precision of x ({x.dtype}), got {t.dtype}")
    if rank < 1 or states < 1:
        raise ValueError(f"dt, B: expected R and N of at least 1, got {rank} and {states}")
    _check_permutations(order)
    start, count = (0, length) if out is None else out
    if start < 0 or count < 0 or start + count > length:
        raise ValueError(f"out: expected (start, length) inside 0 … {length}, got {tuple(out)}")
    return start, count


def _check_permutations(order: Tensor) -> None:
    if torch.compiler.is_compiling() or order.device.type == "meta" or scan_order.is_order_table(order):
        return
    wrong = (order.sort(dim=1).values != torch.arange(order.shape[1], device=order.device)).any(dim=1)
    if wrong.any():
        raise ValueError(f"order: row {int(wrong.int().argmax())} is no permutation of 0 … {order.shape[1] - 1}")


def _reference_forward(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, keep_states=False):
    _warn_slow(x.device.type)
    wide = [*(t.to(A.dtype) for t in (x, dt, B, C)), A, D, dt_weight, dt_bias, order, (out_start, out_length)]
    out = reference_scan(*wide).to(x.dtype)
    out = out.contiguous() if out.is_contiguous() else out.clone(memory_format=torch.contiguous_format)
    return out, A.new_empty(0)


def _reference_backward(dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length):
    inputs = (x, dt, B, C, A, D, dt_weight, dt_bias)
    wide = [*(t.to(A.dtype) for t in (dy, *inputs)), order, (out_start, out_length)]
    grads = reference_scan_backward(*wide)
    return tuple(g.to(t.dtype).contiguous() for g, t in zip(grads, inputs, strict=True))


@functools.cache
def _warn_slow(device: str) -> None:
    if device == "cpu" and not HAS_CPU_KERNEL:
        what, cure = "C++", "Install g++ and run `pip install --no-build-isolation -e .` again."
    elif device == "cuda" and not HAS_CUDA_KERNEL:
        what, cure = "CUDA", "Run `FORCE_CUDA=1 pip install --no-build-isolation -e .` on a machine with nvcc."
    else:
        return
    warnings.warn(
        f"avsmamba: the {what} scan was not built, so the plain torch reference runs: the same numbers, many times "
        f"slower. {cure}",
        stacklevel=2,
    )


def _cuda_forward(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, keep_states=False):
    inputs = (x, dt, B, C, A, D, dt_weight, dt_bias)
    deterministic = torch.are_deterministic_algorithms_enabled()
    y = scan_cuda.forward(torch.ops.avsmamba_cuda, *inputs, order, out_start, out_length, deterministic)
    return y, A.new_empty(0)


def _cuda_backward(dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length):
    inputs = (dy, x, dt, B, C, A, D, dt_weight, dt_bias)
    deterministic = torch.are_deterministic_algorithms_enabled()
    return scan_cuda.backward(torch.ops.avsmamba_cuda, *inputs, order, out_start, out_length, deterministic)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.out_start, ctx.out_length, _ = inputs
    states = output[1]
    ctx.mark_non_differentiable(states)
    ctx.save_for_backward(states, *tensors)


def _backward(ctx, dy: Tensor, _):
    saved = ctx.saved_tensors  # read once: torch.utils.checkpoint recomputes them at each access
    refuse_tangents("multi_directional_scan's backward", dy, *saved)
    grads = torch.ops.avsmamba.multi_directional_scan_backward(dy, *saved, ctx.out_start, ctx.out_length)
    needed = [g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None, None, None, None)


def _no_double_backward(ctx, *grads):
    raise RuntimeError(
        "multi_directional_scan has no double backward; backend='torch' is differentiable any number of times"
    )


def _no_vmap(info, in_dims, *args):
    raise RuntimeError("multi_directional_scan cannot be mapped by vmap: put the mapped axis into the batch b instead")


def _fake_forward(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, keep_states=False):
    return x.new_empty(x.shape[0], out_length, x.shape[2]), A.new_empty(scan_cpu.states_shape(x, B, keep_states))


def _fake_backward(dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length):
    return tuple(t.new_empty(t.shape) for t in (x, dt, B, C, A, D, dt_weight, dt_bias))


torch.library.impl(_FORWARD, "CompositeExplicitAutograd", _reference_forward, lib=_library)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _reference_backward, lib=_library)
if HAS_CPU_KERNEL:
    torch.library.impl(_FORWARD, "CPU", scan_cpu.forward, lib=_library)
    torch.library.impl(_BACKWARD, "CPU", scan_cpu.backward, lib=_library)
if HAS_CUDA_KERNEL:
    torch.library.impl(_FORWARD, "CUDA", _cuda_forward, lib=_library)
    torch.library.impl(_BACKWARD, "CUDA", _cuda_backward, lib=_library)
torch.library.register_fake(_FORWARD, _fake_forward, lib=_library)
torch.library.register_fake(_BACKWARD, _fake_backward, lib=_library)
torch.library.register_autograd(_FORWARD, _backward, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(_BACKWARD, _no_double_backward, lib=_library)
for _operator in (_FORWARD, _BACKWARD):
    torch.library.register_vmap(_operator, _no_vmap, lib=_library)
