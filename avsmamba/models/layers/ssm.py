"""The parameters of a multi-directional selective scan (Eq. 4), one state space model for each direction.

Each direction k has its own projection of the tokens to (delta, B, C), its own A, D and delta weights, initialised as
in Mamba and VMamba: A = -(1 … N), D = 1, and delta's bias such that softplus(bias) is log-uniform in [0.001, 0.1].
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_1, POSITIVE, RATE, Limit, one_of
from avsmamba.ops import ScanParameters
from avsmamba.ops.scan_order import ORIENTATIONS

# Limits of the arguments that become SSMOptions.
SSM_LIMITS: dict[str, Limit] = {
    "d_state": AT_LEAST_1,
    "expand": POSITIVE,
    "dt_rank": AT_LEAST_1,
    "drop_path": RATE,
    "norm_eps": POSITIVE,
}
ORDERS = one_of(ORIENTATIONS)  # scan directions of a Temporal Mamba block


@dataclass(frozen=True)
class SSMOptions:
    """Options of all blocks; the defaults are VMamba's settings (Sec. V-B).

    Attributes:
        d_state: size N of the state of each channel.
        expand: inner channels E over model channels C.
        dt_rank: rank R of delta's projection, or 'auto' for ceil(C / 16).
        conv_act: SiLU after the depthwise convolutions, as in VMamba (Eq. 11 and 12 do not print it).
        drop_path: probability of dropping a block's residual branch for a sample in training.
        norm_eps: epsilon of the layer normalisations before a block; that of `out_norm` is 1e-5.
    """

    d_state: int = 16
    expand: float = 2.0
    dt_rank: int | str = "auto"
    conv_act: bool = True
    drop_path: float = 0.1
    norm_eps: float = 1e-6

    @property
    def activation(self) -> str | None:
        """Activation after the depthwise convolutions."""
        return "silu" if self.conv_act else None

    def inner(self, channels: int) -> int:
        """Return the inner channels E of a block with C model channels."""
        return int(self.expand * channels)

    def rank(self, channels: int) -> int:
        """Return the rank R of delta's projection for C model channels."""
        if isinstance(self.dt_rank, int):
            return self.dt_rank
        if self.dt_rank != "auto":
            raise ValueError(f"dt_rank: expected an integer or 'auto', got {self.dt_rank!r}")
        return math.ceil(channels / 16)


def initial_dt_bias(shape: tuple[int, ...], dt_min: float = 1e-3, dt_max: float = 0.1) -> Tensor:
    """Return biases whose softplus is log-uniform in [dt_min, dt_max]."""
    dt = torch.exp(torch.rand(shape) * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


class MultiDirectionalSSM(nn.Module):
    """Parameters of K state space models, one for each direction of a scan over the same tokens.

    Args:
        channels: model channels C, from which E and R follow.
        num_directions: K.
        options: d_state, expand, dt_rank.
    """

    def __init__(self, channels: int, num_directions: int, options: SSMOptions):
        super().__init__()
        inner, rank, n = options.inner(channels), options.rank(channels), options.d_state
        self.num_directions, self.dt_rank, self.d_state = num_directions, rank, n
        bound = inner**-0.5
        self.x_proj_weight = nn.Parameter(torch.empty(num_directions, rank + 2 * n, inner).uniform_(-bound, bound))
        self.dt_weight = nn.Parameter(torch.empty(num_directions, inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_bias = nn.Parameter(initial_dt_bias((num_directions, inner)))
        self.A_log = nn.Parameter(torch.arange(1, n + 1).float().log().repeat(num_directions, inner, 1))
        self.D = nn.Parameter(torch.ones(num_directions, inner))

    def scan_parameters(self, x: Tensor) -> ScanParameters:
        """Project `(b, L, E)` tokens to delta, B and C; return these, A, D and delta's weights."""
        projected = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (self.num_directions, -1))
        dt, b, c = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return ScanParameters(dt, b, c, -torch.exp(self.A_log), self.D, self.dt_weight, self.dt_bias)
