"""The last layers of a head (upsampling, 3 x 3 convolution, ReLU, classes) without the upsampled map.

Bilinear upsampling works on each channel alone, so W * up(x) = sum over the nine taps of shift(up(W_tap x)): the taps
are products at the size of x, upsampled and shifted one axis after the other, with zeros at the border of the large map
as in the convolution's padding. Along an axis, upsampling, shift and sum over three taps are one matrix (s n, 3 n)
with entries near its diagonal: it is applied in blocks of rows.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from avsmamba.models.layers.tracing import recorded_gradients, watched

BLOCK = 4  # places of the small map in a block of the matrix
LEAST_PLACES = 64  # of the small map, and
LEAST_WORK = 256  # channels of the small map times the scale, below which torch's own layers are as fast


def upsampled_classes(
    x: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, classes_bias: Tensor | None, scale: int
) -> Tensor:
    """Convert a small map to class logits: upsample bilinearly, convolve 3 x 3, ReLU, 1 x 1.

    On the CPU the upsampled map is never stored, nor the convolution's output for more than one frame at a time, also
    in training: the backward pass recomputes it. Only the arguments are kept. A gradient that will be differentiated
    again uses torch's layers. 16-bit numbers are computed in float32. While operations are traced (see `watched`), on
    other devices and on small maps torch's layers run one by one.

    Measured on one core, 5 frames, 128 -> 32 -> 1 channels, scale 4: at 56 x 56 forward 7 times as fast as torch's
    layers, forward and backward 5 times; at 128 x 128 5 and 4 times; at scale 2, 112 x 112, 2 and 1.6 times.

    Args:
        x: `(N, h, w, a)`.
        weight: `(b, a, 3, 3)`, of the convolution.
        bias: `(b,)`.
        classes: `(N_class, b)`.
        classes_bias: `(N_class,)` or None.
        scale: factor of the upsampling.

    Returns:
        `(N, N_class, scale * h, scale * w)`.
    """
    parameters = [p for p in (weight, bias, classes, classes_bias) if p is not None]
    n, height, width, channels = x.shape
    if watched(x, *parameters) or any(t.device.type != "cpu" or not t.is_floating_point() for t in (x, *parameters)):
        return plain(x, weight, bias, classes, classes_bias, scale)
    if not n or height * width < LEAST_PLACES or channels * scale < LEAST_WORK:
        return plain(x, weight, bias, classes, classes_bias, scale)
    cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    if not cast and any(p.dtype != x.dtype for p in parameters):
        return plain(x, weight, bias, classes, classes_bias, scale)
    with torch.autocast("cpu", enabled=False):
        y = UpsampledClasses.apply(x, weight, bias, classes, classes_bias, scale)
    return y.to(torch.get_autocast_dtype("cpu")) if cast else y


def plain(x: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, classes_bias: Tensor | None, scale: int) -> Tensor:
    """Run `upsampled_classes` layer by layer."""
    large = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=scale, mode="bilinear", align_corners=False)
    y = F.relu(F.conv2d(large, weight, bias, padding=1))
    return F.conv2d(y, classes[:, :, None, None], classes_bias)


@lru_cache(maxsize=64)
def axis_matrix(size: int, scale: int, dtype: torch.dtype) -> Tensor:
    """Return the blocks `(ceil(n / BLOCK), scale * BLOCK, (BLOCK + 2) * 3)` of an axis: upsample, shift by taps, add.

    Block i maps places `i * BLOCK - 1` to `(i + 1) * BLOCK` with three taps each to its `scale * BLOCK` places; beyond
    the ends are zeros.
    """
    blocks = -(-size // BLOCK)
    unit = torch.eye(size, dtype=torch.float64)[None]
    up = F.interpolate(unit, scale_factor=scale, mode="linear", align_corners=False)[0].t()
    whole = torch.zeros(blocks * BLOCK * scale, blocks * BLOCK + 2, 3, dtype=torch.float64)
    for tap in range(3):
        to, take = slice(max(0, 1 - tap), size * scale - max(0, tap - 1)), slice(max(0, tap - 1), None)
        whole[to, 1 : size + 1, tap] = up[take][: to.stop - to.start]
    parts = [
        whole[i * BLOCK * scale : (i + 1) * BLOCK * scale, i * BLOCK : (i + 1) * BLOCK + 2].flatten(1)
        for i in range(blocks)
    ]
    return torch.stack(parts).to(dtype)


def along_axis(x: Tensor, scale: int) -> Tensor:
    """Map `(n, 3, L)`, places and taps, to `(scale * n, L)`. See `axis_matrix`."""
    size, length = len(x), x[0, 0].numel()
    matrix = axis_matrix(size, scale, x.dtype)
    padded = x.new_zeros(len(matrix) * BLOCK + 2, 3, length)
    padded[1 : size + 1] = x.reshape(size, 3, length)
    step = 3 * length
    windows = padded.as_strided((len(matrix), (BLOCK + 2) * 3, length), (BLOCK * step, length, 1))
    return torch.bmm(matrix, windows).flatten(0, 1)[: scale * size]


def along_axis_backward(dy: Tensor, scale: int) -> Tensor:
    """Apply the adjoint of `along_axis`: `(scale * n, L)` to `(n, 3, L)`."""
    size = len(dy) // scale
    matrix = axis_matrix(size, scale, dy.dtype)
    missing = len(matrix) * BLOCK * scale - len(dy)
    blocks = (F.pad(dy, (0, 0, 0, missing)) if missing else dy).unflatten(0, (len(matrix), -1))
    windows = torch.bmm(matrix.transpose(1, 2), blocks).unflatten(1, (BLOCK + 2, 3))
    dx = windows[:, 1:-1].flatten(0, 1)
    dx[BLOCK - 1 : -1 : BLOCK] += windows[1:, 0]
    dx[BLOCK::BLOCK] += windows[:-1, -1]
    return dx[:size]


class Sizes(NamedTuple):
    """Sizes of one frame."""

    height: int
    width: int
    channels: int
    scale: int


def taps(weight: Tensor) -> Tensor:
    """Return `(b, a, 3, 3)` as `(a, 9 b)`: columns are taps along the width, along the height, b."""
    return rearrange(weight, "b a y x -> a (x y b)")


def convolve(x: Tensor, weight: Tensor, bias: Tensor, sizes: Sizes) -> Tensor:
    """Convolve one frame: `(w h, a)` to `(s h, s w, b)`."""
    height, width, channels, scale = sizes
    y = (x @ weight).view(width, height, 3, 3 * channels).transpose(1, 2)
    y = along_axis(y, scale).view(scale * width, height, 3, channels).permute(1, 2, 0, 3)
    return along_axis(y, scale).view(scale * height, scale * width, channels).add_(bias)


def convolve_backward(dy: Tensor, sizes: Sizes) -> Tensor:
    """Compute the gradient `(w h, 9 b)` of a frame's products with the taps, from `(s h, s w, b)`."""
    height, width, channels, scale = sizes
    d = along_axis_backward(dy.flatten(1), scale).view(height, 3, scale * width, channels)
    d = along_axis_backward(d.permute(2, 0, 1, 3).reshape(scale * width, -1), scale)
    return d.view(width, 3, height, 3 * channels).transpose(1, 2).reshape(width * height, 9 * channels)


class UpsampledClasses(torch.autograd.Function):
    """`upsampled_classes` frame by frame."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        weight, bias, classes, classes_bias, scale = arguments
        ctx.scale = scale
        ctx.save_for_backward(x, weight, bias, classes, classes_bias)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        n, height, width, _ = x.shape
        sizes = Sizes(height, width, len(weight), scale)
        w, b, c = taps(weight).to(dtype), bias.to(dtype), classes.to(dtype)
        out = x.new_empty(n, len(c), scale * height, scale * width)
        for frame, logits in zip(x, out, strict=True):
            y = convolve(columns(frame, dtype), w, b, sizes).relu_().flatten(0, 1)
            if out.dtype == dtype:
                torch.mm(c, y.t(), out=logits.flatten(1))
            else:
                logits.copy_((c @ y.t()).view_as(logits))
            if classes_bias is not None:
                logits += classes_bias[:, None, None]
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, classes, classes_bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return recorded_gradients(plain, (*ctx.saved_tensors, ctx.scale), dout, ctx.needs_input_grad)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        height, width, channels = x.shape[1:]
        sizes = Sizes(height, width, len(weight), ctx.scale)
        w, b, c = taps(weight).to(dtype), bias.to(dtype), classes.to(dtype)
        dw, db, dc = torch.zeros_like(w), torch.zeros_like(b), torch.zeros_like(c)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for i, frame in enumerate(x):
            frame = columns(frame, dtype)
            y = convolve(frame, w, b, sizes).relu_().flatten(0, 1)
            d = dout[i].to(dtype).flatten(1)
            dc += d @ y
            dy = (d.t() @ c).mul_(y > 0)
            db += dy.sum(0)
            dz = convolve_backward(dy.unflatten(0, (ctx.scale * height, -1)), sizes)
            dw += frame.t() @ dz
            if dx is not None:
                dx[i] = (dz @ w.t()).view(width, height, channels).transpose(0, 1)
        dweight = rearrange(dw, "a (x y b) -> b a y x", x=3, y=3).to(weight.dtype)
        dlast = None if classes_bias is None else dout.sum((0, 2, 3), dtype=dtype).to(classes_bias.dtype)
        return dx, dweight, db.to(bias.dtype), dc.to(classes.dtype), dlast, None


def columns(frame: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `(h, w, a)` as `(w h, a)`."""
    return frame.transpose(0, 1).to(dtype).flatten(0, 1)
