"""An MLP of one number, which is a piecewise-linear curve in R^O: evaluated from its knots, not layer by layer.

Layer 0 maps a number m to relu(a m + b) and bends at t_i = -b_i / a_i. Between two bends every unit of layer 1 is a
line alpha m + beta, whose coefficients are prefix sums over the sorted bends; a line's zero is one more knot. Between
two knots the output is W3 (M alpha) m + W3 (M beta) + b3 with one mask M of active units. The cost of a pixel does not
depend on the widths of the layers.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.models.layers.tracing import recorded_gradients, watched

ROWS = 128  # units of layer 1 whose lines are computed at a time
PIXELS = 16384  # pixels at a time, where a temporary tensor has one row for each
LEAST = 1024  # fewest numbers for which the curve is used,
LEAST_WORK = 200_000  # and fewest numbers times units of layer 1
MOST_KNOTS = 16  # most knots for each unit of both layers; with more, the plain layers run


class CurveMLP(nn.ModuleList):
    """Linear layers with ReLU between them, from one number to O; with two hidden layers they are a curve.

    For 1,024 numbers or more (200,000 / H1 where that is more), the curve replaces two hidden layers:

    - where no gradients are recorded, on any device: a table, built once in float64 on the CPU (0.3 s at 2048 and 2048)
      and again when a weight has changed, moved or been replaced. A change through `.data` is detected at the next
      `train()` or `eval()`. The table is not part of the state dict, of copies or of pickles. 16-bit numbers are
      evaluated in float32;
    - in training on the CPU with weights of float32 or float64: see `Table`. At a bend the derivative is that on its
      left. A gradient that will be differentiated again uses the plain layers.

    Measured on one core at 2048 and 2048: 980 numbers 1.3 times as fast as the plain layers in training, 3,136 3 times,
    15,680 10 times, 31,360 18 times; at 64 and 64 from 3,136 on. The plain layers run while operations are traced (see
    `watched`), in training on a GPU, for layers with hooks, and for values that are not finite.

    Args:
        dims: widths of the hidden layers, then O.
    """

    def __init__(self, dims: Sequence[int]):
        super().__init__(nn.Linear(i, o) for i, o in pairwise((1, *dims)))
        self._kept: tuple[Any, ...] | None = None

    def forward(self, m: Tensor) -> Tensor:
        """Map `(..., 1)` to `(..., O)`."""
        if len(self) != 3 or watched(m) or any(type(layer) is not nn.Linear or hooked(layer) for layer in self):
            return self.plain(m)
        weights = Weights(*(p for layer in self for p in (layer.weight, layer.bias)))
        dtype = weights.w2.dtype
        cast = torch.is_autocast_enabled(m.device.type) and torch.float64 not in (m.dtype, dtype)
        odd = watched(*weights) or any(w.dtype != dtype or w.device != m.device for w in weights)
        if odd or (m.dtype != dtype and not cast) or m.numel() < max(LEAST, LEAST_WORK // len(weights.c)):
            return self.plain(m)
        flat, out = m.flatten(), torch.get_autocast_dtype(m.device.type) if cast else dtype
        with torch.autocast(m.device.type, enabled=False):
            if not torch.is_grad_enabled() or not any(t.requires_grad for t in (m, *weights)):
                curve = self.curve(weights)
                y = None if curve is None else curve(flat.to(curve.knots.dtype))
            elif m.device.type == "cpu" and dtype in (torch.float32, torch.float64):
                finite = bool(flat.isfinite().all()) and weights.finite()
                y = Table.apply(flat.to(dtype), *weights) if finite else None
            else:
                y = None
        return self.plain(m) if y is None else y.to(out).unflatten(0, m.shape[:-1])

    def plain(self, m: Tensor) -> Tensor:
        """Map `(..., 1)` to `(..., O)` layer by layer."""
        for i, layer in enumerate(self):
            m = layer(F.relu(m) if i else m)
        return m

    @torch.no_grad()
    def curve(self, weights: "Weights") -> "Curve | None":
        """Return the table of these weights, on their device; None where the plain layers must run."""
        if any(w.is_inference() for w in weights):  # their versions are not counted
            return None
        key = [(w.data_ptr(), w._version, w.dtype, w.device) for w in weights]
        if self._kept is None or self._kept[0] != key:
            dtype = torch.float64 if weights.w2.dtype == torch.float64 else torch.float32
            curve = build_curve(Weights(*(w.detach().cpu() for w in weights)), dtype)
            # The tensors are kept, so that their addresses are not reused.
            self._kept = key, curve and curve.to(weights.w2.device), [w.detach() for w in weights]
        return self._kept[1]

    def train(self, mode: bool = True) -> "CurveMLP":
        """Set the mode, as of any module; the next call builds the table again."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}


def hooked(layer: nn.Module) -> bool:
    """Return whether a hook is registered on the layer."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks)


class Weights(NamedTuple):
    """Weights of the three layers: `(H0, 1)`, `(H0,)`, `(H1, H0)`, `(H1,)`, `(O, H1)`, `(O,)`."""

    a: Tensor
    b: Tensor
    w2: Tensor
    c: Tensor
    w3: Tensor
    d: Tensor

    def plain(self, m: Tensor) -> Tensor:
        """Map `(..., 1)` to `(..., O)` layer by layer."""
        return F.linear(F.relu(F.linear(F.relu(F.linear(m, self.a, self.b)), self.w2, self.c)), self.w3, self.d)

    def finite(self) -> bool:
        """Return whether every weight is finite; sums of finite weights that overflow count as not."""
        return bool(torch.stack([t.sum().double() for t in self]).isfinite().all())


class Bends:
    """The bends of layer 0 in an interval, and the lines of layer 1 between them.

    Args:
        weights: on the CPU.
        low, high: the open interval.

    Attributes:
        places: `(F,)` float64, sorted.
        order: `(F,)`, the units that bend at these places.
    """

    def __init__(self, weights: Weights, low: float, high: float):
        self.weights, self.low, self.high = weights, low, high
        a, b = weights.a.squeeze(1).double(), weights.b.double()
        t = -b / a
        inside = ((t > low) & (t < high)).nonzero().squeeze(1)  # neither infinite nor nan (a = 0)
        self.places, order = t[inside].sort()
        self.order = inside[order]
        flat = (a == 0) & (b > 0)
        active = flat | ((a < 0) & (t > low)) | ((a > 0) & (t <= low))  # at `low`
        self.start = torch.stack([a * active, b * active])
        self.steps = torch.stack([a, b])[:, self.order] * a[self.order].sign()
        self.edges = torch.cat([t.new_tensor([low]), self.places, t.new_tensor([high])])
        count = F.pad(a[self.order].sign().cumsum(0), (1, 0)) + active.sum()
        self.idle = (count == 0).nonzero().squeeze(1)  # segments in which no unit of layer 0 is active

    def lines(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield units of layer 1, a few at a time: which, alpha and beta `(n, F + 1)` in each segment, float64."""
        w2, c = self.weights.w2, self.weights.c.double()
        for first in range(0, len(w2), ROWS):
            rows = slice(first, first + ROWS)
            some = w2[rows].double()
            steps = some.index_select(1, self.order)
            start = some @ self.start.t()
            alpha = torch.cat([start[:, :1], steps * self.steps[0]], 1).cumsum(1)
            beta = torch.cat([start[:, 1:] + c[rows, None], steps * self.steps[1]], 1).cumsum(1)
            # The rounding error of a sum that cancels would decide the sign of a unit without a bias.
            alpha.index_fill_(1, self.idle, 0.0)
            beta[:, self.idle] = c[rows, None]
            yield rows, alpha, beta

    def knots(self) -> Tensor:
        """Return the bends of layer 0 and the zeros of layer 1, sorted, float64."""
        found = [self.places]
        for _, alpha, beta in self.lines():
            left = torch.addcmul(beta, alpha, self.edges[:-1]) > 0
            last = alpha[:, -1] * self.high + beta[:, -1] > 0
            row, segment = (torch.cat([left[:, 1:], last[:, None]], 1) != left).nonzero(as_tuple=True)
            slope = alpha[row, segment]
            zero = torch.where(slope == 0, self.edges[segment], -beta[row, segment] / slope)
            found.append(torch.clamp(zero, self.edges[segment], self.edges[segment + 1]))
        return torch.cat(found).sort().values

    def patterns(self, places: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield units of layer 1, a few at a time: which, slope and value `(n, R)` at the places, 0 where inactive."""
        segment = torch.searchsorted(self.places, places)
        for rows, alpha, beta in self.lines():
            slope = alpha.index_select(1, segment)
            value = beta.index_select(1, segment).addcmul_(slope, places)
            yield rows, slope.mul_(value > 0), value.clamp_(min=0)


class Curve(NamedTuple):
    """The table for inference.

    Attributes:
        knots: `(K,)` sorted; piece i is between knots i - 1 and i.
        bases: `(K + 3,)`, a knot of each piece; 0 for the last two, which are -inf and inf.
        rows: `(2 K + 6, O)`: for each piece the value at its base, then its slope.
    """

    knots: Tensor
    bases: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> "Curve":
        """Move the table to a device."""
        return Curve(*(t.to(device) for t in self))

    def __call__(self, m: Tensor) -> Tensor:
        """Map `(P,)` to `(P, O)`, both of the table's dtype."""
        count = len(self.knots)
        piece = torch.searchsorted(self.knots, m, out_int32=True)
        piece = piece.masked_fill(m == -torch.inf, count + 1).masked_fill(m == torch.inf, count + 2)
        step = (m - self.bases.index_select(0, piece)).masked_fill(m.isinf(), 0)
        return value_and_slope(self.rows, piece, step)


def value_and_slope(rows: Tensor, piece: Tensor, step: Tensor) -> Tensor:
    """Return `rows[2 piece] + rows[2 piece + 1] * step`, `(P, O)`, in one pass from `(2 R, O)`, `(P,)` and `(P,)`."""
    pairs = torch.stack([2 * piece, 2 * piece + 1], 1)
    return F.embedding_bag(pairs, rows, mode="sum", per_sample_weights=torch.stack([torch.ones_like(step), step], 1))


def build_curve(weights: Weights, dtype: torch.dtype) -> Curve | None:
    """Build the table of three layers, in float64.

    Args:
        weights: on the CPU.
        dtype: of the table, float32 or float64; knots that are equal in it are one knot.

    Returns:
        the table on the CPU, or None if a weight is not finite or there are too many knots.
    """
    if not weights.finite():
        return None
    most = torch.finfo(dtype).max
    bends = Bends(weights, -most, most)
    knots = torch.cat([bends.knots(), torch.zeros(1, dtype=torch.float64)]).to(dtype).double()
    knots = knots[knots.abs() <= most].unique()
    count, outputs = len(knots), len(weights.d)
    if count > MOST_KNOTS * sum(weights.w2.shape):
        return None
    ends = knots.new_tensor([-most, most])
    values = torch.zeros(count, outputs, dtype=torch.float64)
    slopes = torch.zeros(2, outputs, dtype=torch.float64)
    for rows, slope, value in bends.patterns(torch.cat([knots, ends])):
        w3 = weights.w3[:, rows].double().t()
        values.addmm_(value[:, :count].t(), w3)
        slopes.addmm_(slope[:, count:].t(), w3)
    values += weights.d.double()
    width = knots.diff()
    inner = values.diff(dim=0).div_(width[:, None]).masked_fill_((width < torch.finfo(dtype).tiny)[:, None], 0)
    infinite = ends.new_tensor([[-torch.inf], [torch.inf]])
    values = torch.cat([values[:1], values, Weights(*(w.double() for w in weights)).plain(infinite)])
    slopes = torch.cat([slopes[:1], inner, slopes[1:], torch.zeros(2, outputs, dtype=torch.float64)])
    bases = torch.cat([knots[:1], knots, knots.new_zeros(2)])
    table = torch.stack([values, slopes], 1).flatten(0, 1)
    return Curve(knots.to(dtype), bases.to(dtype), table.to(dtype))


class Table(torch.autograd.Function):
    """The curve at the pixels' numbers, with its gradients, on the CPU.

    Pixels are sorted; those between the same two knots are one piece r, with the mask M_r and a base x_r among them.
    The value at x_r and the slope come from two products of (R, H1) and (H1, O). Backward, with D0_r = sum of dy and
    D1_r = sum of (m - x_r) dy over the piece, the gradients of layer 2 are two more such products, and
    E_r = M_r (D_r W3), summed over the pieces in which unit i of layer 0 is active (prefix sums, float64), yields P1_i
    and P0_i, from which dW2_i = a_i P1_i + b_i P0_i, da_i = W2_i P1_i, db_i = W2_i P0_i.

    Kept for the backward pass: the arguments, R x O slopes and two numbers a pixel; the lines are recomputed.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor, *parameters: Tensor) -> Tensor:
        """Map `(P,)` to `(P, O)`; all of one dtype, float32 or float64, finite, P > 0."""
        weights = Weights(*parameters)
        places, order = m.double().sort()
        ctx.range = places[0].item(), places[-1].item()
        bends = Bends(weights, *ctx.range)
        piece = torch.searchsorted(bends.knots(), places)
        counts = torch.unique_consecutive(piece, return_counts=True)[1]
        first = counts.cumsum(0) - counts
        base = (places[first] + places[first + counts - 1]) / 2
        piece = torch.empty_like(order).index_copy_(0, order, torch.arange(len(base)).repeat_interleave(counts))
        step = (m - base[piece]).to(m.dtype)
        values, slopes = weights.d.repeat(len(base), 1), m.new_zeros(len(base), len(weights.d))
        for rows, slope, value in bends.patterns(base):
            values.addmm_(value.t().to(m.dtype), weights.w3[:, rows].t())
            slopes.addmm_(slope.t().to(m.dtype), weights.w3[:, rows].t())
        ctx.save_for_backward(m, *parameters, slopes, base, piece, order, first)
        return value_and_slope(torch.stack([values, slopes], 1).flatten(0, 1), piece, step)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        m, *parameters, slopes, base, piece, order, first = ctx.saved_tensors
        weights = Weights(*parameters)
        if torch.is_grad_enabled():
            return recorded_gradients(
                lambda m, *w: Weights(*w).plain(m[:, None]), (m, *weights), dy, ctx.needs_input_grad
            )
        dy = dy.contiguous()
        dm = None
        if ctx.needs_input_grad[0]:
            some = zip(dy.split(PIXELS), piece.split(PIXELS), strict=True)
            dm = torch.cat([torch.linalg.vecdot(slopes.index_select(0, p), g) for g, p in some])
        if not any(ctx.needs_input_grad[1:]):
            return dm, *[None] * len(weights)
        d0 = F.embedding_bag(order, dy, first, mode="sum")
        step = (m - base[piece]).to(m.dtype)[order]
        d1 = F.embedding_bag(order, dy, first, mode="sum", per_sample_weights=step)
        return dm, *weight_gradients(weights, Bends(weights, *ctx.range), base, d0, d1)


def weight_gradients(weights: Weights, bends: Bends, base: Tensor, d0: Tensor, d1: Tensor) -> list[Tensor]:
    """Compute the gradients of the six weights, see `Table`.

    Args:
        weights: of one dtype.
        bends: in the interval of the pixels.
        base: `(R,)` sorted, float64.
        d0, d1: `(R, O)`, the gradients of value and slope.
    """
    a, b = weights.a.squeeze(1).double(), weights.b.double()
    # Unit i is active from piece `border` on, or up to it.
    border = torch.zeros(len(a), dtype=torch.long)
    border[bends.order] = torch.searchsorted(base, bends.places, right=True)
    onward = (bends.start != 0).any(0)
    onward[bends.order] = a[bends.order] > 0
    sign = 1 - 2 * onward.double()
    dw2, dw3, dc = (torch.empty_like(t) for t in (weights.w2, weights.w3, weights.c))
    da, db = torch.zeros_like(a), torch.zeros_like(b)

    def sums(e: Tensor) -> tuple[Tensor, Tensor]:
        total = F.pad(e.cumsum(1), (1, 0))
        return torch.where(onward, total[:, -1:], 0).addcmul_(sign, total.index_select(1, border)), total[:, -1]

    for rows, slope, value in bends.patterns(base):
        active, w3 = value > 0, weights.w3[:, rows].t()
        dw3[:, rows] = torch.addmm(d1.t() @ slope.t().to(d1.dtype), d0.t(), value.t().to(d0.dtype))
        e0 = (w3 @ d0.t()).double().mul_(active)
        e1 = (w3 @ d1.t()).double().mul_(active).addcmul_(e0, base)
        p1, _ = sums(e1)
        p0, dc[rows] = sums(e0)
        w2 = weights.w2[rows].double()
        da += (w2 * p1).sum(0)
        db += (w2 * p0).sum(0)
        dw2[rows] = p1.mul_(a).addcmul_(p0, b).to(dw2.dtype)
    return [da[:, None].to(d0.dtype), db.to(d0.dtype), dw2, dc, dw3, d0.sum(0)]
