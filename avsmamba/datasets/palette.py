"""Colours of AVSBench's semantic masks by class index, by the rule of PASCAL VOC.

Bits 3i, 3i + 1 and 3i + 2 of the index become bit 7 - i of red, green and blue, for i = 0, 1, 2.
"""

import numpy as np
from numpy.typing import NDArray

NUM_COLOURS = 256
_INDEX = np.arange(NUM_COLOURS)[:, None]
PALETTE = np.sum([(_INDEX >> (3 * i + np.arange(3)) & 1) << (7 - i) for i in range(3)], axis=0).astype(np.uint8)
_PACK = np.array([1 << 16, 1 << 8, 1], np.int32)  # one integer for red, green and blue
_PACKED = PALETTE @ _PACK
_ORDER = np.argsort(_PACKED)


def to_colours(indices: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the `(..., 3)` RGB of `(...)` class indices.

    Raises:
        ValueError: if an index is not in 0 to 255.
    """
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < NUM_COLOURS:
        raise ValueError(f"indices: expected 0 to {NUM_COLOURS - 1}, got {indices.min()} to {indices.max()}")
    return PALETTE[indices]


def to_indices(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the `(...)` class indices of `(..., 3)` RGB, the inverse of `to_colours`.

    Raises:
        ValueError: naming the first colour that no class has.
    """
    packed = colours @ _PACK
    indices = _ORDER[np.searchsorted(_PACKED, packed, sorter=_ORDER).clip(max=NUM_COLOURS - 1)]
    unknown = _PACKED[indices] != packed
    if unknown.any():
        red, green, blue = colours[unknown][0].tolist()
        raise ValueError(f"no class has the colour ({red}, {green}, {blue})")
    return indices.astype(np.uint8)
