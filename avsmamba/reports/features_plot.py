"""Principal components of feature maps as colours over the frames (Fig. 9)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from avsmamba.visualization.canvas import Picture

ALPHA = 0.7  # the paper's "scaling factor" (Sec. V-E)
_TAILS = (1.0, 99.0)  # percentiles drawn as black and as full colour


def principal_colours(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first three principal components of a clip's features as red, green and blue.

    All frames share one basis, so that a colour means the same in each. The sign of a component is arbitrary; it is
    chosen so that the longer tail is bright. Each component is scaled to [0, 1] from its 1st to its 99th percentile.

    Args:
        features: `(T, h, w, C)`, C at least 3.

    Returns:
        colours `(T, h, w, 3)` in [0, 1], and the share of the variance that each component explains, `(3,)`.

    Raises:
        ValueError: if the shape is wrong or a value is not finite.
    """
    if features.ndim != 4 or features.shape[-1] < 3 or not features.size:
        raise ValueError(f"features: expected (T, h, w, C) with C of at least 3, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features: expected finite numbers")
    tokens = features.reshape(-1, features.shape[-1]).astype(np.float64)
    tokens = tokens - tokens.mean(0)
    variances, axes = np.linalg.eigh(tokens.T @ tokens)
    scores = tokens @ axes[:, :-4:-1]
    scores *= np.where((scores**3).sum(0) < 0, -1.0, 1.0)
    low, high = np.percentile(scores, _TAILS, axis=0)
    flat = high - low <= 1e-9 * max(1.0, float(np.abs(features).max()))
    colours = np.where(flat, 0.0, np.clip((scores - low) / np.where(flat, 1.0, high - low), 0.0, 1.0))
    shares = np.clip(variances[:-4:-1], 0.0, None) / max(float(variances.sum()), 1e-300)
    return colours.reshape(*features.shape[:-1], 3), shares


def overlay(pane: Picture, colours: NDArray[np.floating], alpha: float = ALPHA) -> Picture:
    """Blend `(h, w, 3)` colours in [0, 1], resized bilinearly, over a pane `(H, W, 3)` with a weight of `alpha`."""
    height, width = pane.shape[:2]
    fine = cv2.resize(np.ascontiguousarray(colours, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(alpha * 255 * fine + (1 - alpha) * pane, 0, 255).round().astype(np.uint8)
