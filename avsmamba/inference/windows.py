"""Run windows over a stream of frames and blend them where they overlap."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def window_weights(length: int) -> Tensor:
    """Return the weights `(n,)` of a window's frames: 1 at its edges, increasing by 1 per frame towards its middle."""
    place = torch.arange(length)
    return torch.minimum(place, length - 1 - place).float() + 1


def first_window(frame: int, length: int, overlap: int) -> int:
    """Return the first frame that is needed so that `frame` and all later ones have all their windows.

    If the stream ends with `frame`, its last window starts `length - 1` frames before it.
    """
    step = length - overlap
    return max(0, frame - length + 1) // step * step


def blended(
    items: Iterable[Item], length: int, overlap: int, run: Callable[[Sequence[Item]], Tensor]
) -> Iterator[tuple[Item, Tensor]]:
    """Run windows over a stream and yield each frame with the weighted mean of its windows' results.

    Windows start every `length - overlap` frames. The last one is moved back to end with the stream; a shorter stream
    is one window. Weights are those of `window_weights`. Buffers at most `length` frames; yields a frame once no later
    window overlaps it.

    Args:
        items: frames.
        length: of a window, frames.
        overlap: frames that a window shares with the next one, less than `length`.
        run: returns `(n, ...)` for a window of n frames.

    Yields:
        each frame and its mean `(...)`, in order.

    Raises:
        ValueError: if `overlap` is not less than `length`.
    """
    if length < 1 or not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0 to {length - 1} of a window of {length} frames, got {overlap}")
    buffer: deque[list] = deque()  # frame, mean so far, sum of weights so far
    seen, covered, end = 0, 0, length

    def run_window() -> None:
        values = run([frame for frame, _, _ in buffer])
        for entry, value, weight in zip(buffer, values, window_weights(len(buffer)).tolist(), strict=True):
            entry[2] += weight
            # Frames of only one window keep their exact value.
            entry[1] = value if entry[1] is None else entry[1] + (value - entry[1]) * (weight / entry[2])

    for item in items:
        if len(buffer) == length:
            yield tuple(buffer.popleft()[:2])
        buffer.append([item, None, 0.0])
        del item  # no reference to a frame after it has been yielded
        seen += 1
        if seen == end:
            run_window()
            covered, end = seen, end + length - overlap
    if seen > covered:
        run_window()
    while buffer:
        yield tuple(buffer.popleft()[:2])
