"""Several maps as one sequence of tokens, and back."""

import torch
from einops import rearrange
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


def map_sizes(maps: list[Tensor]) -> Sizes:
    """Return (h, w) of each `(B, T, h, w, C)` map."""
    return tuple((m.shape[2], m.shape[3]) for m in maps)


def flatten_frames(maps: list[Tensor]) -> Tensor:
    """Join maps `(B, T, h_i, w_i, C)` to one sequence a frame: `(B, T, sum h_i w_i, C)`."""
    return torch.cat([rearrange(m, "b t h w c -> b t (h w) c") for m in maps], dim=2)


def split_frames(tokens: Tensor, sizes: Sizes) -> list[Tensor]:
    """Undo `flatten_frames`."""
    parts = tokens.split([h * w for h, w in sizes], dim=2)
    return [rearrange(p, "b t (h w) c -> b t h w c", h=h, w=w) for p, (h, w) in zip(parts, sizes, strict=True)]


def flatten_clip(maps: list[Tensor]) -> Tensor:
    """Join maps `(B, T, h_i, w_i, C)` to one sequence a clip: `(B, sum T h_i w_i, C)`, scale after scale."""
    return torch.cat([rearrange(m, "b t h w c -> b (t h w) c") for m in maps], dim=1)


def split_clip(tokens: Tensor, num_frames: int, sizes: Sizes) -> list[Tensor]:
    """Undo `flatten_clip`."""
    parts = tokens.split([num_frames * h * w for h, w in sizes], dim=1)
    return [
        rearrange(p, "b (t h w) c -> b t h w c", t=num_frames, h=h, w=w) for p, (h, w) in zip(parts, sizes, strict=True)
    ]
