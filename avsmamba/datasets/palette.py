"""The colours of AVSBench's semantic masks: class index to colour and back, by the rule of PASCAL VOC.

For class j, bits 3i, 3i + 1 and 3i + 2 of j become bit 7 - i of red, green and blue, for i = 0, 1, 2.
"""

import numpy as np
from numpy.typing import NDArray

NUM_COLOURS = 256


def _table() -> NDArray[np.uint8]:
    index = np.arange(NUM_COLOURS)[:, None]
    channel = np.arange(3)
    table = np.zeros((NUM_COLOURS, 3), np.uint8)
    for i in range(3):
        table |= ((index >> (3 * i + channel) & 1) << (7 - i)).astype(np.uint8)
    return table


PALETTE = _table()


def to_colours(indices: NDArray[np.integer]) -> NDArray[np.uint8]:
    """`(..., 3)` RGB of `(...)` class indices.

    Raises:
        ValueError: if an index is not in 0 to 255.
    """
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < NUM_COLOURS:
        raise ValueError(f"indices: expected 0 to {NUM_COLOURS - 1}, got {indices.min()} to {indices.max()}")
    return PALETTE[indices]


def to_indices(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(...)` class indices of `(..., 3)` RGB, the inverse of `to_colours`.

    Raises:
        ValueError: naming the first colour that no class has.
    """
    wide = colours.astype(np.int32)
    indices = np.zeros(colours.shape[:-1], np.int32)
    for i in range(3):
        for channel in range(3):
            indices |= (wide[..., channel] >> (7 - i) & 1) << (3 * i + channel)
    # Blue's third bit would be bit 8, which no index has: such a colour is found below, as any other.
    indices &= NUM_COLOURS - 1
    unknown = (PALETTE[indices] != colours).any(axis=-1)
    if unknown.any():
        red, green, blue = colours[unknown][0].tolist()
        raise ValueError(f"no class has the colour ({red}, {green}, {blue})")
    return indices.astype(np.uint8)
