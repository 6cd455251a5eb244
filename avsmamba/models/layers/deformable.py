"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) in plain torch."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from avsmamba.models.layers.scales import Sizes


def pixel_centres(sizes: Sizes, device: torch.device | None = None) -> Tensor:
    """Return the centres `(sum h_i w_i, 2)` of all pixels of maps of these sizes, as (x, y) in (0, 1)."""
    centres = []
    for h, w in sizes:
        y, x = torch.meshgrid(
            (torch.arange(h, device=device) + 0.5) / h, (torch.arange(w, device=device) + 0.5) / w, indexing="ij"
        )
        centres.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(centres)


def sine_positions(sizes: Sizes, channels: int, device: torch.device | None = None) -> Tensor:
    """Encode the pixels' centres by sines, `(sum h_i w_i, C)`: half of the channels for y, half for x (DETR).

    Raises:
        ValueError: if 4 does not divide the channels.
    """
    if channels % 4:
        raise ValueError(f"embed_dims: expected a multiple of 4 for positions, got {channels}")
    steps = torch.arange(channels // 4, device=device) / (channels // 4)
    angles = pixel_centres(sizes, device).flip(-1).unsqueeze(-1) * 2 * math.pi / 10000**steps
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


class DeformableAttention(nn.Module):
    """Each token gathers `num_points` samples a head and scale, at predicted offsets from its own place.

    Args:
        channels: C.
        num_levels: scales.
        num_heads: heads; they divide C.
        num_points: samples a head and scale.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_levels: int, num_heads: int = 8, num_points: int = 4):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads: {num_heads} heads do not divide {channels} channels")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.value = nn.Linear(channels, channels)
        self.offsets = nn.Linear(channels, num_heads * num_levels * num_points * 2)
        self.weights = nn.Linear(channels, num_heads * num_levels * num_points)
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: head m samples in direction m of a ring, its p-th point p pixels away, with equal weights."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ring = torch.stack([angles.cos(), angles.sin()], -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        bias = ring[:, None, None] * distance[None, None, :, None].expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.flatten())
        for weight in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(weight)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, value: Tensor, reference: Tensor, sizes: Sizes) -> Tensor:
        """Gather.

        Args:
            query: `(N, L, C)`.
            value: `(N, sum h_i w_i, C)`, the scales one after another.
            reference: `(L, 2)`, the queries' places (x, y) in [0, 1].
            sizes: (h_i, w_i) of the scales.

        Returns:
            `(N, L, C)`.
        """
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        values = rearrange(self.value(value), "n l (m c) -> (n m) c l", m=heads)
        # Places and samples stay in float32 under autocast: bfloat16 would round them to a quarter of a pixel.
        kind = torch.promote_types(values.dtype, torch.float32)
        offsets = self.offsets(query).to(kind).unflatten(-1, (heads, levels, points, 2))
        weights = self.weights(query).to(kind).unflatten(-1, (heads, levels * points)).softmax(-1)
        weights = weights.unflatten(-1, (levels, points)).transpose(1, 2).flatten(0, 1)
        gathered = torch.zeros((), dtype=kind, device=query.device)
        for i, chunk in enumerate(values.to(kind).split([h * w for h, w in sizes], dim=-1)):
            h, w = sizes[i]
            # Divided one by one: a tensor built from h and w would be a constant in an exported model.
            x, y = offsets[:, :, :, i].unbind(-1)
            places = reference.to(kind)[:, None, None] + torch.stack([x / w, y / h], -1)
            grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
            samples = F.grid_sample(chunk.unflatten(-1, (h, w)), grid, "bilinear", "zeros", align_corners=False)
            gathered = gathered + (samples * weights[:, :, i].unsqueeze(1)).sum(-1)
        return self.output(rearrange(gathered, "(n m) c l -> n l (m c)", m=heads).to(query.dtype))
