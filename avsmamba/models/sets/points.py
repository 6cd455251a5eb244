"""Points of a frame at which masks are compared, and the masks there (PointRend, Kirillov et al., CVPR 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Return the bilinear values of maps at points; outside of the outermost pixel centres the nearest value.

    Args:
        maps: `(N, C, h, w)`, float32 or wider.
        points: `(N, P, 2)`, (x, y) in [0, 1] of the map's width and height.

    Returns:
        `(N, C, P)`.
    """
    grid = (2 * points - 1).to(maps.dtype).unsqueeze(1)
    return F.grid_sample(maps, grid, "bilinear", "border", align_corners=False).squeeze(2)


@torch.no_grad()
def uncertain_points(
    logits: Tensor, extent: Tensor, num_points: int, oversample: float, importance: float, limit: int = 2**26
) -> Tensor:
    """Draw points for each mask, most of them where its logit is near 0.

    Of `oversample * num_points` random candidates the `importance * num_points` with the smallest absolute logit are
    taken; the others are random.

    Args:
        logits: `(M, h, w)`.
        extent: `(M, 2)`, share (x, y) of the map's width and height in which the points are.
        num_points: P.
        oversample: candidates for each point.
        importance: share of points taken from the candidates.
        limit: logits of candidates that are sampled at a time, which bounds the memory.

    Returns:
        `(M, P, 2)`, (x, y) in [0, 1) of the extent.
    """
    kept, device = round(importance * num_points), logits.device
    points = torch.rand(len(logits), num_points, 2, device=device)
    if not kept:
        return points
    count = max(kept, round(oversample * num_points))
    for first in range(0, len(logits), step := max(1, limit // count)):
        part = slice(first, first + step)
        candidates = torch.rand(len(logits[part]), count, 2, device=device)
        values = sample(logits[part].unsqueeze(1), candidates * extent[part].unsqueeze(1)).squeeze(1)
        chosen = values.abs().topk(kept, largest=False, sorted=False).indices
        points[part, :kept] = candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
    return points
