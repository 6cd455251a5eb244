"""Windows over a stream of frames, blended where they overlap."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def window_weights(length: int) -> Tensor:
    """`(n,)` weights of a window's frames: 1 at its edges, one more with each frame towards its middle."""
    place = torch.arange(length)
    return torch.minimum(place, length - 1 - place).float() + 1


def first_window(frame: int, length: int, overlap: int) -> int:
    """The frame at which windows may start so that frame `frame` and all later ones come out as from the beginning.

    No window that holds one of them may be missing. Should the stream end with `frame`, its last window starts
    `length - 1` frames before it.
    """
    step = length - overlap
    return max(0, frame - length + 1) // step * step


def blended(
    items: Iterable[Item], length: int, overlap: int, run: Callable[[Sequence[Item]], Tensor]
) -> Iterator[tuple[Item, Tensor]]:
    """Run windows over a stream and give each frame the weighted mean of what its windows say.

    Windows start every `length - overlap` frames. The last one is moved back to end with the stream; a stream shorter
    than a window is a window by itself. Weights fall towards a window's edges (`window_weights`). `length` frames are
    held and no more: a frame is given out when no window to come can reach it.

    Args:
        items: frames.
        length: of a window, frames.
        overlap: frames that a window shares with the next one, less than `length`.
        run: a window of n frames to `(n, ...)`.

    Yields:
        each frame and its mean `(...)`, in order.

    Raises:
        ValueError: if `overlap` does not fit `length`.
    """
    if length < 1 or not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0 to {length - 1} of a window of {length} frames, got {overlap}")
    held: deque[list] = deque()  # frame, mean so far, sum of weights so far
    seen, covered, end = 0, 0, length

    def run_on_held() -> None:
        values = run([frame for frame, _, _ in held])
        for entry, value, weight in zip(held, values, window_weights(len(held)).tolist(), strict=True):
            entry[2] += weight
            # Frames of one window alone keep their value to the bit.
            entry[1] = value if entry[1] is None else entry[1] + (value - entry[1]) * (weight / entry[2])

    for item in items:
        if len(held) == length:
            yield tuple(held.popleft()[:2])
        held.append([item, None, 0.0])
        del item  # a frame that has been given out shall not live on here
        seen += 1
        if seen == end:
            run_on_held()
            covered, end = seen, end + length - overlap
    if seen > covered:
        run_on_held()
    while held:
        yield tuple(held.popleft()[:2])
