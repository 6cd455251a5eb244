"""The scans that the benchmarks run: their shapes, their tensors, what they must move and what memory they may take."""

from dataclasses import dataclass

import torch
from torch import Tensor

from avsmamba import ops

CHANNELS, RANK, FRAMES = 512, 16, 5  # E, R, T of the paper's model


@dataclass(frozen=True)
class Case:
    """One scan. `kind` and `maps` say which order table it has; `size` are the frames' pixels, for the table."""

    name: str
    size: int
    kind: str
    maps: tuple[tuple[int, int], ...]
    states: int
    channels: int = CHANNELS
    frames: int = FRAMES

    @property
    def batch(self) -> int:
        return self.frames if self.kind in ("vss", "v2a_frame") else 1

    def _order_and_range(self) -> tuple[Tensor, tuple[int, int]]:
        if self.kind in ("vss", "temporal"):
            per_frame = self.kind == "vss"
            order = ops.cross_scan_2d(self.maps) if per_frame else ops.cross_scan_3d(self.frames, self.maps, 8)
            return order, (0, order.shape[1])
        if self.kind == "a2v":
            return ops.a2v(self.frames, *self.maps[0])
        return ops.v2a(1 if self.kind == "v2a_frame" else self.frames, *self.maps[0])

    @property
    def order(self) -> Tensor:
        return self._order_and_range()[0]

    @property
    def directions(self) -> int:
        return self.order.shape[0]

    @property
    def length(self) -> int:
        return self.order.shape[1]

    @property
    def out(self) -> tuple[int, int]:
        """(start, length) of the requested tokens."""
        return self._order_and_range()[1]

    @property
    def updates(self) -> int:
        """State updates of a pass."""
        return self.batch * self.length * self.directions * self.channels * self.states

    def inputs(self) -> list[Tensor]:
        """Create random tensors like the model's blocks: dt, B and C are slices of one projection."""
        k, e, n, length = self.directions, self.channels, self.states, self.length
        projected = torch.randn(self.batch, length, k, RANK + 2 * n)
        tensors = [
            torch.randn(self.batch, length, e),
            *projected.split([RANK, n, n], dim=-1),
            -torch.rand(k, e, n) * n - 0.1,
            torch.ones(k, e),
            torch.randn(k, e, RANK) * RANK**-0.5,
            torch.randn(k, e) - 4,
        ]
        return [t.detach().requires_grad_() for t in tensors]

    def _values(self) -> tuple[int, int, int, int, int]:
        """Count the values in x, in dt and B, in C of all tokens, in the parameters, and in y."""
        k, e, n, tokens = self.directions, self.channels, self.states, self.batch * self.length
        return tokens * e, tokens * k * (RANK + n), tokens * k * n, k * e * (n + RANK + 2), self.batch * self.out[1] * e

    def input_bytes(self) -> int:
        """Count the bytes of x, dt, B, C and the parameters, float32, and the order table, int32."""
        x, low, c, parameters, _ = self._values()
        return 4 * (x + low + c + parameters + self.directions * self.length)

    def must_move(self, backward: bool) -> int:
        """Count the bytes that a pass has to move.

        Forward: x, dt, B, the parameters and the order table read once, C of the wanted tokens read once, y written
        once. Backward: the same inputs and dy read once; the gradients of x, dt, B, C and the parameters written once.
        """
        x, low, c, parameters, y = self._values()
        wanted_c = c * self.out[1] // self.length
        read = x + low + wanted_c + parameters + self.directions * self.length
        return 4 * (read + y + (x + low + c + parameters if backward else 0))

    def allowed_memory(self, threads: int, backward: bool) -> int:
        """Return the limit of bytes beyond inputs and outputs.

        Forward: 5 % of the inputs. Backward: the states at the borders of chunks of 32 tokens, and for each thread
        partial gradients of one batch entry (x, dt, B, C) and of the parameters.
        """
        if not backward:
            return self.input_bytes() // 20
        x, low, c, parameters, _ = self._values()
        borders = self.batch * self.directions * self.channels * self.states * -(-self.length // 32)
        return 4 * (borders + threads * ((x + low + c) // self.batch + parameters))


def cases(size: int, states: int, channels: int = CHANNELS) -> list[Case]:
    """Return the paper's scans of one clip of five frames of `size` pixels."""
    maps = tuple((size // s, size // s) for s in (4, 8, 16, 32))
    rows = [("VSS, scales 2-4", "vss", maps[1:]), ("Temporal Mamba, scales 2-4", "temporal", maps[1:])]
    for kind, name, scales in (
        ("v2a_frame", "V2A frame", (2, 3, 4)),
        ("v2a_temporal", "V2A temporal", (2, 3, 4)),
        ("a2v", "A2V", (1, 2, 3, 4)),
        ("temporal", "Temporal Mamba", (1, 2, 3, 4)),
    ):
        rows += [(f"{name}, scale {s}", kind, maps[s - 1 : s]) for s in scales]
    return [Case(name, size, kind, shape, states, channels) for name, kind, shape in rows]


def yardstick(channels: int = CHANNELS, side: int = 28) -> Case:
    """Return the shape that public code was timed at: L = 784, K = 4, E = 512, N = 16, one batch entry."""
    return Case(f"yardstick: cross-scan, {side} x {side}", 8 * side, "vss", ((side, side),), 16, channels, frames=1)
