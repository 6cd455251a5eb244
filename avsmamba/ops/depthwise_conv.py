"""`depthwise_conv`: the convolutions before the scans (Eq. 11 and 12, Fig. 3 and 4), on channels-last tokens.

    y = activation(bias + sum over taps k of weight_k x[position + k - front])

It is registered with torch.library as `avsmamba::depthwise_conv`, its backward as a second operator. On the CPU the
kernels of csrc/cpu run: one pass without copies, with the activation; backward recomputes the value before the
activation. Without compiled kernels, and on other devices, torch's convolution runs. On a GPU the causal one over a
sequence is causal_conv1d's, where that package is installed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from avsmamba.ops import selective_scan  # noqa: F401  (it defines the library "avsmamba")
from avsmamba.ops.common import (
    HAS_CPU_KERNEL,
    autocast_dtype,
    check_backend,
    contiguous_rows,
    refuse_tangents,
    state_dtype,
)

try:
    from causal_conv1d import causal_conv1d_fn
except ImportError:
    causal_conv1d_fn = None

ACTIVATIONS = (None, "silu")
BACKENDS = ("auto", "cpu", "torch")
_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, int[3] front, bool silu"
_library = torch.library.Library("avsmamba", "FRAGMENT")
_library.define(f"depthwise_conv({_ARGUMENTS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    f"depthwise_conv_backward(Tensor dy, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_FORWARD, _BACKWARD = "avsmamba::depthwise_conv", "avsmamba::depthwise_conv_backward"


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    causal: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Convolve each channel with its own kernel; as many outputs as inputs, with zeros outside.

    x may be strided, as a slice of a projection is. Sums are float32, or float64 with float64 inputs; parameters are
    cast to that. Under autocast, x is cast to autocast's dtype, except float64.
    The CPU kernel treats subnormal numbers as zeros, and, except in float64, gradients below 2^-100.

    Args:
        x: `(B, L, C)`, `(B, H, W, C)` or `(B, T, H, W, C)`: float32, float64, bfloat16 or float16.
        weight: `(C, 1, *kernel)`, as nn.Conv1d, Conv2d and Conv3d with C groups have it. The kernel covers the last
            axes before the channels; axes before those are batch axes. Sizes are odd, except on a causal axis.
        bias: `(C,)`.
        activation: 'silu', applied to the result, or None.
        causal: along the kernel's first axis, an output depends on inputs at and before its own position only.
        backend: 'auto', 'cpu' (the compiled kernel) or 'torch' (differentiable any number of times and in forward
            mode).

    Returns:
        x's shape and dtype.

    Raises:
        ValueError: if a shape, dtype, device, activation or backend does not fit; the message names the argument.
        RuntimeError: if the compiled kernel is requested and cannot run; if a tensor has a tangent of forward-mode
            differentiation, which only 'torch' supports.
    """
    front = _check(x, weight, bias, activation, causal)
    check_backend(backend, BACKENDS, x)
    x = x.to(autocast_dtype(x))
    wide = state_dtype(x)
    weight, bias = weight.to(wide), None if bias is None else bias.to(wide)
    if backend != "torch":
        refuse_tangents("depthwise_conv", x, weight, bias)
    if causal and backend == "auto" and _suits_causal_conv1d(x, weight):
        return causal_conv1d_fn(x.transpose(1, 2), weight[:, 0], bias, activation=activation).transpose(1, 2)
    tokens = x.reshape(x.shape[0], *(1,) * (5 - x.ndim), *x.shape[1:])
    weight = weight.reshape(len(weight), 1, *(1,) * (5 - weight.ndim), *weight.shape[2:])
    if backend == "torch":
        y = reference_depthwise_conv(tokens.to(wide), weight, bias, front, activation == "silu").to(x.dtype)
    else:
        y = torch.ops.avsmamba.depthwise_conv(tokens, weight, bias, front, activation == "silu")
    return y.view(x.shape)


def reference_depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, front: list[int], silu: bool) -> Tensor:
    """Run the operator by torch's own convolution.

    Args:
        x: `(B, T, H, W, C)`.
        weight: `(C, 1, kt, kh, kw)`.
        bias: `(C,)` or None.
        front: zeros before the first frame, row and column.
        silu: whether SiLU follows.

    Returns:
        `(B, T, H, W, C)`, contiguous.
    """
    maps, weight, padding, _ = _as_torch_conv(x, weight, front)
    y = torch.convolution(maps, weight, bias, [1] * len(padding), padding, [1] * len(padding), False, [0], len(weight))
    y = y.movedim(1, -1).reshape(x.shape).contiguous()
    return F.silu(y) if silu else y


def _as_torch_conv(x, weight, front):
    """Return maps `(N, C, ...)`, weight and padding for a convolution of few axes, and the padding already added."""
    while weight.ndim > 3 and weight.shape[2] == 1:
        weight, front = weight.squeeze(2), front[1:]
    kernel = weight.shape[2:]
    maps = x.flatten(0, 3 - len(kernel)).movedim(-1, 1)
    if all(2 * f + 1 == k for f, k in zip(front, kernel, strict=True)):
        return maps, weight, list(front), None
    pads = [n for f, k in zip(front, kernel, strict=True) for n in (k - 1 - f, f)][::-1]
    return F.pad(maps, pads), weight, [0] * len(kernel), pads


def _check(x, weight, bias, activation, causal) -> list[int]:
    """Return the zeros before the first frame, row and column; raise a ValueError that names a wrong argument."""
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"x: expected (B, L, C), (B, H, W, C) or (B, T, H, W, C), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(f"x: expected a floating dtype, got {x.dtype}")
    channels = x.shape[-1]
    if not 3 <= weight.ndim <= x.ndim or weight.shape[:2] != (channels, 1) or 0 in weight.shape[2:]:
        raise ValueError(
            f"weight: expected ({channels}, 1, ...) with a kernel of 1 to {x.ndim - 2} axes for x of {tuple(x.shape)}, "
            f"got {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"bias: expected ({channels},), got {tuple(bias.shape)}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None:
            continue
        if t.device != x.device:
            raise ValueError(f"{name}: expected on {x.device}, where x is, got {t.device}")
        if not t.dtype.is_floating_point or (t.dtype == torch.float64) != (x.dtype == torch.float64):
            raise ValueError(f"{name}: expected the precision of x ({x.dtype}), got {t.dtype}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {activation!r}")
    kernel = weight.shape[2:]
    if any(k % 2 == 0 for k in kernel[1 if causal else 0 :]):
        raise ValueError(f"weight: expected odd sizes except on a causal first axis, got a kernel of {tuple(kernel)}")
    front = [k // 2 for k in kernel]
    if causal:
        front[0] = kernel[0] - 1
    return [0] * (3 - len(kernel)) + front


def _suits_causal_conv1d(x: Tensor, weight: Tensor) -> bool:
    """Return whether causal_conv1d is installed and supports these: 2 to 4 taps, rows aligned to 8 elements."""
    fits = x.ndim == weight.ndim == 3 and weight.shape[2] in (2, 3, 4) and x.dtype != torch.float64
    aligned = x.stride(-1) == 1 and not any(n % 8 for n in (x.shape[-1], *x.stride()[:-1]))
    return causal_conv1d_fn is not None and x.device.type == "cuda" and fits and aligned


def _torch_backward(dy, x, weight, bias, front, silu):
    maps, kernel, padding, padded = _as_torch_conv(x, weight.to(x.dtype), front)
    if silu:
        low = None if bias is None else bias.to(x.dtype)
        dy = torch.ops.aten.silu_backward(dy, reference_depthwise_conv(x, weight.to(x.dtype), low, front, False))
    grad = dy.flatten(0, 5 - kernel.ndim).movedim(-1, 1)
    ones = [1] * len(padding)
    dx, dweight, dbias = torch.ops.aten.convolution_backward(
        grad, maps, kernel, [len(weight)], ones, padding, ones, False, [0], len(weight), [True, True, True]
    )
    if padded is not None:
        dx = F.pad(dx, [-n for n in padded])
    dx = dx.movedim(1, -1).reshape(x.shape).contiguous()
    return dx, dweight.to(weight.dtype).reshape(weight.shape).contiguous(), dbias.to(weight.dtype)


def _torch_forward(x, weight, bias, front, silu):
    bias = None if bias is None else bias.to(x.dtype)
    return reference_depthwise_conv(x, weight.to(x.dtype), bias, front, silu)


def _for_kernel(x, weight, bias):
    """Return x with rows of stride 1, a contiguous weight, and a bias, zero for None."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias.contiguous()
    return *contiguous_rows(x), weight.contiguous(), bias


def _cpu_forward(x, weight, bias, front, silu):
    y = torch.empty(x.shape, dtype=weight.dtype)
    torch.ops.avsmamba_cpu.conv_forward(*_for_kernel(x, weight, bias), *front, silu, y)
    return y.to(x.dtype)


def _cpu_backward(dy, x, weight, bias, front, silu):
    dx = torch.empty(x.shape, dtype=weight.dtype)
    dweight, dbias = torch.empty(weight.shape, dtype=weight.dtype), torch.empty(len(weight), dtype=weight.dtype)
    torch.ops.avsmamba_cpu.conv_backward(
        *contiguous_rows(dy), *_for_kernel(x, weight, bias), *front, silu, dx, dweight, dbias
    )
    return dx.to(x.dtype), dweight, dbias


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.front, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dy: Tensor):
    saved = ctx.saved_tensors  # read once: torch.utils.checkpoint recomputes them at each access
    refuse_tangents("depthwise_conv's backward", dy, *saved)
    grads = torch.ops.avsmamba.depthwise_conv_backward(dy, *saved, ctx.front, ctx.silu)
    needed = [g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None, None)


def _no_double_backward(ctx, *grads):
    raise RuntimeError("depthwise_conv has no double backward; backend='torch' is differentiable any number of times")


def _fake_forward(x, weight, bias, front, silu):
    return x.new_empty(x.shape)


def _fake_backward(dy, x, weight, bias, front, silu):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))


torch.library.impl(_FORWARD, "CompositeExplicitAutograd", _torch_forward, lib=_library)
torch.library.impl(_BACKWARD, "CompositeExplicitAutograd", _torch_backward, lib=_library)
if HAS_CPU_KERNEL:
    torch.library.impl(_FORWARD, "CPU", _cpu_forward, lib=_library)
    torch.library.impl(_BACKWARD, "CPU", _cpu_backward, lib=_library)
torch.library.register_fake(_FORWARD, _fake_forward, lib=_library)
torch.library.register_fake(_BACKWARD, _fake_backward, lib=_library)
torch.library.register_autograd(_FORWARD, _backward, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(_BACKWARD, _no_double_backward, lib=_library)


@register_flop_formula(torch.ops.avsmamba.depthwise_conv)
def _forward_flops(x_shape, weight_shape, *args, **kwargs) -> int:
    return 2 * math.prod(x_shape) * math.prod(weight_shape[2:])


@register_flop_formula(torch.ops.avsmamba.depthwise_conv_backward)
def _backward_flops(dy_shape, x_shape, weight_shape, *args, **kwargs) -> int:
    """Count the gradients of x and the weights, as torch counts them for its convolutions."""
    return 2 * _forward_flops(x_shape, weight_shape)
