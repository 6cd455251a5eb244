"""Our operators in plain ONNX, for torch.onnx.export(dynamo=True, custom_translation_table=translations()).

The scan is ONNX's own `Scan` over the tokens, all K directions in one step; batch, length and orders are variable.
Requires onnxscript (`pip install avsmamba[onnx]`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import FLOAT, INT64, graph, script
from onnxscript import opset18 as op

# Number of states (K E N) up to which the loop's inputs are computed for all steps at once. For more, copies of K L E
# numbers each cost more than is saved in the steps.
FEW_STATES = 1 << 14


def translations() -> dict[Callable, Callable]:
    """Return the functions that build the graphs of our operators, by operator."""
    return {
        torch.ops.avsmamba.multi_directional_scan.default: translate_scan,
        torch.ops.avsmamba.depthwise_conv.default: translate_depthwise_conv,
    }


def translate_scan(
    x: Any,
    dt: Any,
    B: Any,
    C: Any,
    A: Any,
    D: Any,
    dt_weight: Any,
    dt_bias: Any,
    order: Any,
    out_start: Any,
    out_length: Any,
    keep_states: bool = False,
) -> tuple[Any, Any]:
    """Translate `avsmamba::multi_directional_scan` (Eq. 3 and 4), inference only; shapes as there.

    Tokens have their batch axis second, `(L, b, …)`, so that one step's tokens are a few whole rows; a state is
    `(K, b, N, E)`, so that sums and products run along E.
    """
    directions, channels, states = A.shape
    rank = dt.shape[3]
    batch, length = op.Shape(x, start=0, end=1), op.Shape(x, start=1, end=2)
    k = directions
    steps = op.Transpose(op.Cast(order, to=INT64.dtype), perm=[1, 0])  # (L, K)
    first = op.Constant(value_ints=list(range(k)))
    rows = op.Add(op.Mul(steps, op.Constant(value_int=k)), first)  # of (L K, …)

    def by_row(t: Any, *shape: int) -> Any:
        """Reshape `(b, L, K, n)` to `(L K, b, …)`."""
        shape_of = op.Concat(op.Constant(value_ints=[-1]), batch, op.Constant(value_ints=list(shape)), axis=0)
        return op.Reshape(op.Transpose(t, perm=[1, 2, 0, 3]), shape_of)

    inputs = (
        op.Transpose(x, perm=[1, 0, 2]),
        by_row(dt, rank),
        by_row(B, states, 1),
        by_row(C, 1, states),
        op.Unsqueeze(op.Transpose(A, perm=[0, 2, 1]), op.Constant(value_ints=[1])),
        op.Transpose(dt_weight, perm=[0, 2, 1]),
        op.Unsqueeze(dt_bias, op.Constant(value_ints=[1])),
        steps,
        rows,
        op.Expand(
            op.Constant(value_float=0.0),
            op.Concat(op.Constant(value_ints=[k]), batch, op.Constant(value_ints=[int(states), int(channels)]), axis=0),
        ),
    )
    few = k * channels * states <= FEW_STATES
    y = (scan_prepared if few else scan_gathering)(*inputs)  # (L, K, b, 1, E) in the order of the steps
    y = op.Reshape(y, op.Concat(op.Constant(value_ints=[-1]), batch, op.Constant(value_ints=[int(channels)]), axis=0))
    # Positions of the outputs of the requested tokens.
    count = op.Mul(length, op.Constant(value_ints=[k]))
    places = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
    places = op.Reshape(places, op.Shape(steps))
    places = op.ScatterElements(places, steps, places, axis=0)
    start = _as_vector(out_start)
    end = op.Add(start, _as_vector(out_length))
    axis = op.Constant(value_ints=[0])
    places = op.Slice(places, start, end, axis)
    y = op.ReduceSum(op.Gather(y, places), op.Constant(value_ints=[1]), keepdims=0)  # (length, b, E)
    through = op.Mul(op.Slice(x, start, end, op.Constant(value_ints=[1])), op.ReduceSum(D, axis, keepdims=0))
    y = op.Add(op.Transpose(y, perm=[1, 0, 2]), through)
    return y, op.Expand(op.Constant(value_float=0.0), op.Constant(value_ints=[0]))


def _as_vector(value: Any) -> Any:
    """Return an index, a constant or a value of the graph, as an int64 vector of one."""
    if isinstance(value, int):
        return op.Constant(value_ints=[value])
    return op.Reshape(value, op.Constant(value_ints=[1]))


# Both loops take x (L, b, E); dt (L K, b, R), B (L K, b, N, 1) and C (L K, b, 1, N), row l K + k of direction k; A
# (K, 1, N, E), dt_weight (K, R, E), dt_bias (K, 1, E); the tokens (L, K) of the steps, their rows (L, K), and the state
# before the first step (K, b, N, E). They return (L, K, b, 1, E), in the order of the steps.
#
# softplus(v) = max(v, 0) + log1p(u), u = exp(-|v|), is written out, with log1p(u) = u log(1 + u) / ((1 + u) - 1) on the
# rounded 1 + u, or u where that is 1: with onnxruntime's own Softplus the scan of a small model took 1.5 times as long.


@script(default_opset=op)
def scan_prepared(
    x: FLOAT[...],
    dt: FLOAT[...],
    B: FLOAT[...],
    C: FLOAT[...],
    A: FLOAT[...],
    dt_weight: FLOAT[...],
    dt_bias: FLOAT[...],
    steps: INT64[...],
    rows: INT64[...],
    start: FLOAT[...],
) -> FLOAT[...]:
    """Scan; the inputs of all steps are gathered before the loop."""
    raw = op.Add(op.MatMul(op.Gather(dt, rows), dt_weight), dt_bias)
    u = op.Exp(op.Neg(op.Abs(raw)))
    above = op.Add(u, 1.0)
    log1p = op.Where(op.Greater(above, 1.0), op.Mul(u, op.Div(op.Log(above), op.Sub(above, 1.0))), u)
    delta = op.Add(op.Relu(raw), log1p)
    written = op.Mul(delta, op.Gather(x, steps))

    @graph()
    def step(h, delta_i, written_i, b_i, c_i):
        kept = op.Mul(op.Exp(op.Mul(delta_i, A)), h)
        new = op.Add(kept, op.Mul(written_i, b_i))
        y_i = op.MatMul(c_i, new)
        return new, y_i

    _end, y = op.Scan(
        start,
        op.Unsqueeze(delta, [3]),
        op.Unsqueeze(written, [3]),
        op.Gather(B, rows),
        op.Gather(C, rows),
        body=step,
        num_scan_inputs=4,
    )
    return y


@script(default_opset=op)
def scan_gathering(
    x: FLOAT[...],
    dt: FLOAT[...],
    B: FLOAT[...],
    C: FLOAT[...],
    A: FLOAT[...],
    dt_weight: FLOAT[...],
    dt_bias: FLOAT[...],
    steps: INT64[...],
    rows: INT64[...],
    start: FLOAT[...],
) -> FLOAT[...]:
    """Scan; each step gathers its inputs, so that only the result has K L E numbers."""

    @graph()
    def step(h, steps_i, rows_i):
        raw = op.Add(op.MatMul(op.Gather(dt, rows_i), dt_weight), dt_bias)
        u = op.Exp(op.Neg(op.Abs(raw)))
        above = op.Add(u, 1.0)
        log1p = op.Where(op.Greater(above, 1.0), op.Mul(u, op.Div(op.Log(above), op.Sub(above, 1.0))), u)
        delta = op.Add(op.Relu(raw), log1p)
        written = op.Mul(delta, op.Gather(x, steps_i))
        kept = op.Mul(op.Exp(op.Mul(op.Unsqueeze(delta, [2]), A)), h)
        new = op.Add(kept, op.Mul(op.Unsqueeze(written, [2]), op.Gather(B, rows_i)))
        y_i = op.MatMul(op.Gather(C, rows_i), new)
        return new, y_i

    _end, y = op.Scan(start, steps, rows, body=step, num_scan_inputs=2)
    return y


def translate_depthwise_conv(x: Any, weight: Any, bias: Any, front: Sequence[int], silu: bool) -> Any:
    """Translate `avsmamba::depthwise_conv` of `(B, T, H, W, C)` to a grouped Conv of as few axes as possible."""
    kernel = [int(n) for n in weight.shape[2:]]
    channels, front = int(weight.shape[0]), [int(n) for n in front]
    while len(kernel) > 1 and kernel[0] == 1:
        kernel, front = kernel[1:], front[1:]
    axes, shape = len(kernel), op.Shape(x)
    # Axes before the kernel's are batch axes.
    inner = op.Slice(shape, op.Constant(value_ints=[4 - axes]), op.Constant(value_ints=[5]))
    maps = op.Reshape(x, op.Concat(op.Constant(value_ints=[-1]), inner, axis=0))
    maps = op.Transpose(maps, perm=[0, axes + 1, *range(1, axes + 1)])
    weight = op.Reshape(weight, op.Constant(value_ints=[channels, 1, *kernel]))
    arguments = [maps, weight] if bias is None else [maps, weight, bias]
    pads = [*front, *(n - 1 - f for n, f in zip(kernel, front, strict=True))]
    y = op.Conv(*arguments, group=channels, kernel_shape=kernel, pads=pads)
    if silu:
        y = op.Mul(y, op.Sigmoid(y))
    return op.Reshape(op.Transpose(y, perm=[0, *range(2, axes + 2), 1]), shape)
