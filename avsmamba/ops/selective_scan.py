"""`multi_directional_scan`: the one operator behind every scan of the paper (Eq. 3 and 4), and its names there.

    delta_k = softplus(dt_k @ dt_weight_k^T + dt_bias_k)
    h = exp(delta_k A_k) h + delta_k B_k x,      y_k = C_k h + D_k x,      y = sum over k, in natural token order

It is registered with torch.library as `avsmamba::multi_directional_scan` and its backward as an operator of its own.
On the CPU the kernels of csrc/cpu run, on a GPU those of csrc/cuda; where nothing was compiled, and on other devices,
the plain torch reference.
"""

import functools
import warnings

import torch
from torch import Tensor

from avsmamba.ops import scan_cuda, scan_mamba_ssm, scan_order
from avsmamba.ops.forward_ad import refuse_tangents
from avsmamba.ops.scan_reference import reference_scan, reference_scan_backward

try:
    import avsmamba._cpu

    HAS_CPU_KERNEL = True
except ImportError:
    HAS_CPU_KERNEL = False

try:
    import avsmamba._cuda  # type: ignore[import-not-found]  # noqa: F401

    HAS_CUDA_KERNEL = True
except ImportError:
    HAS_CUDA_KERNEL = False

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
    """Names that `backend` takes here, the fastest first."""
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
    """Scan one set of tokens in K orders with K state space models, and add up what they give.

    x, dt, B and C share one dtype (float32, float64, bfloat16 or float16) and may be strided, as slices of one
    projection are. The state and all sums are float32, or float64 with float64 inputs; 16-bit inputs are widened a few
    tokens at a time. Parameters are cast to the state's dtype. Under autocast, x, dt, B and C are cast to autocast's
    dtype, but for float64. The CPU kernels take subnormal numbers for zeros, and so gradients below 2^-100 but in
    float64 (docs/cpu_kernels.md).

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
        out: (start, length) of the tokens whose output is wanted; all by default. No output is made for the rest.
        backend: 'auto', 'cpu' or 'cuda' (the compiled kernels), 'torch' (the reference, differentiable any number of
            times and in forward mode), or 'mamba_ssm' (that package's CUDA kernel on K copies, for comparison).

    Returns:
        `(b, L, E)`, or `(b, length, E)` with `out`, of x's dtype.

    Raises:
        ValueError: if a shape, dtype, device, the order or the range does not fit; the message names the argument.
        RuntimeError: if a backend is asked for that cannot run; if a tensor carries a tangent of forward-mode
            differentiation, which only 'torch' can take.
    """
    if x.device.type != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        low = torch.get_autocast_dtype(x.device.type)
        x, dt, B, C = x.to(low), dt.to(low), B.to(low), C.to(low)
    start, length = _check(x, dt, B, C, A, D, dt_weight, dt_bias, order, out)
    state = torch.float64 if x.dtype == torch.float64 else torch.float32
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}")
    if backend == "cpu" and not (HAS_CPU_KERNEL and x.device.type == "cpu"):
        what = f"x is on {x.device}" if HAS_CPU_KERNEL else "the extension was not built (needs g++ at install time)"
        raise RuntimeError(f"backend: 'cpu' cannot run: {what}")
    if backend == "cuda" and not (HAS_CUDA_KERNEL and x.device.type == "cuda"):
        built = "the extension was not built (needs nvcc: FORCE_CUDA=1 at install time)"
        raise RuntimeError(f"backend: 'cuda' cannot run: {f'x is on {x.device}' if HAS_CUDA_KERNEL else built}")
    parameters = [t.to(state) for t in (A, D, dt_weight, dt_bias)]
    if backend == "torch":
        wide = [*(t.to(state) for t in (x, dt, B, C)), *parameters, order, (start, length)]
        return reference_scan(*wide).to(x.dtype)
    refuse_tangents("multi_directional_scan", x, dt, B, C, *parameters)
    if backend == "mamba_ssm":
        everything = [x, dt, B, C, *parameters, order, (start, length)]
        return scan_mamba_ssm.scan(*everything)
    inputs = (x, dt, B, C, *parameters)
    train = torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not torch.compiler.is_exporting()
    return torch.ops.avsmamba.multi_directional_scan(*inputs, order, start, length, train)[0]


def selective_scan_2d(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    sizes: scan_order.Sizes,
) -> Tensor:
    """2D selective scan of the scales of one frame, K = 4 (Eq. 5-7); see `multi_directional_scan`, `cross_scan_2d`."""
    order = scan_order.cross_scan_2d(sizes, x.device)
    return multi_directional_scan(x, dt, B, C, A, D, dt_weight, dt_bias, order)


def selective_scan_3d(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    num_frames: int,
    sizes: scan_order.Sizes,
) -> Tensor:
    """3D selective scan of a clip, K as the parameters have it (Eq. 8-10); see `cross_scan_3d`."""
    order = scan_order.cross_scan_3d(num_frames, sizes, len(A), x.device)
    return multi_directional_scan(x, dt, B, C, A, D, dt_weight, dt_bias, order)


def selective_scan_v2a(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    num_frames: int,
    height: int,
    width: int,
    level: str,
) -> Tensor:
    """Vision-to-audio scan, K = 4: the audio tokens' outputs (Eq. 13-14 and 17).

    Args:
        x: `(b, h w + 1, E)` for level 'frame' (b counts frames), `(b, T h w + T, E)` for 'temporal'; audio last.
        num_frames: T; not used by level 'frame'.
        level: 'frame' or 'temporal'.

    Returns:
        `(b, 1, E)` or `(b, T, E)`.
    """
    if level == "frame":
        order, out = scan_order.v2a_frame(height, width, x.device), (height * width, 1)
    elif level == "temporal":
        order = scan_order.v2a_temporal(num_frames, height, width, x.device)
        out = (num_frames * height * width, num_frames)
    else:
        raise ValueError(f"level: expected 'frame' or 'temporal', got {level!r}")
    return multi_directional_scan(x, dt, B, C, A, D, dt_weight, dt_bias, order, out)


def selective_scan_a2v(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    num_frames: int,
    height: int,
    width: int,
) -> Tensor:
    """Audio-to-vision scan, K = 4 (Eq. 18-19): `(b, T + T h w, E)`, audio first, to `(b, T h w, E)` visual outputs."""
    order = scan_order.a2v(num_frames, height, width, x.device)
    out = (num_frames, num_frames * height * width)
    return multi_directional_scan(x, dt, B, C, A, D, dt_weight, dt_bias, order, out)


def _check(x, dt, B, C, A, D, dt_weight, dt_bias, order, out) -> tuple[int, int]:
    """Raise a ValueError that names the argument at fault; return the range of wanted tokens."""
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


def _states_shape(x: Tensor, B: Tensor, kept: bool) -> tuple[int, ...]:
    """Of the states that the CPU kernel's forward keeps for its backward, those before each tile; else none."""
    if not (kept and HAS_CPU_KERNEL and x.device.type == "cpu"):
        return (0,)
    tile = _cpu_tile()
    return (x.shape[0], B.shape[2], (x.shape[1] + tile - 1) // tile, B.shape[3], x.shape[2])


@functools.cache
def _cpu_tile() -> int:
    return torch.ops.avsmamba_cpu.tile()


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
        what, cure = "CUDA", "Run `FORCE_CUDA=1 pip install --no-build-isolation -e .` where there is nvcc."
    else:
        return
    warnings.warn(
        f"avsmamba: the {what} scan was not built, so the plain torch reference runs: the same numbers, many times "
        f"slower. {cure}",
        stacklevel=2,
    )


def _rows(*tensors: Tensor) -> list[Tensor]:
    """The kernel reads strided tensors, but each row in one piece."""
    return [t if t.stride(-1) == 1 or t.shape[-1] <= 1 else t.contiguous() for t in tensors]


def _cpu_forward(x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length, keep_states=False):
    y = torch.empty(x.shape[0], out_length, x.shape[2], dtype=A.dtype)
    states = torch.empty(_states_shape(x, B, keep_states), dtype=A.dtype)
    parameters = [t.contiguous() for t in (A, D, dt_weight, dt_bias, order)]
    torch.ops.avsmamba_cpu.forward(*_rows(x, dt, B, C), *parameters, out_start, out_length, y, states)
    return y.to(x.dtype), states


def _cpu_backward(dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length):
    inputs = (x, dt, B, C, A, D, dt_weight, dt_bias)
    if states.numel() == 0:  # the forward did not know that it would be differentiated
        states = _cpu_forward(*inputs, order, out_start, out_length, True)[1]
    grads = tuple(torch.empty(t.shape, dtype=A.dtype) for t in inputs)
    parameters = [t.contiguous() for t in (A, D, dt_weight, dt_bias, order)]
    rows = _rows(x, dt, B, C)
    torch.ops.avsmamba_cpu.backward(dy.contiguous(), states, *rows, *parameters, out_start, out_length, *grads)
    return grads if x.dtype == A.dtype else tuple(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True))


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
    saved = ctx.saved_tensors  # once: torch.utils.checkpoint makes them anew each time
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
    return x.new_empty(x.shape[0], out_length, x.shape[2]), A.new_empty(_states_shape(x, B, keep_states))


def _fake_backward(dy, states, x, dt, B, C, A, D, dt_weight, dt_bias, order, out_start, out_length):
    return tuple(t.new_empty(t.shape) for t in (x, dt, B, C, A, D, dt_weight, dt_bias))


torch.library.impl(_FORWARD, "CompositeExplicitAutograd", _reference_forward, lib=_library)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _reference_backward, lib=_library)
if HAS_CPU_KERNEL:
    torch.library.impl(_FORWARD, "CPU", _cpu_forward, lib=_library)
    torch.library.impl(_BACKWARD, "CPU", _cpu_backward, lib=_library)
if HAS_CUDA_KERNEL:
    torch.library.impl(_FORWARD, "CUDA", _cuda_forward, lib=_library)
    torch.library.impl(_BACKWARD, "CUDA", _cuda_backward, lib=_library)
torch.library.register_fake(_FORWARD, _fake_forward, lib=_library)
torch.library.register_fake(_BACKWARD, _fake_backward, lib=_library)
torch.library.register_autograd(_FORWARD, _backward, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(_BACKWARD, _no_double_backward, lib=_library)
for _operator in (_FORWARD, _BACKWARD):
    torch.library.register_vmap(_operator, _no_vmap, lib=_library)
