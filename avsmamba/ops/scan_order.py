"""The orders in which the paper's scans visit their tokens, as tables, and the tokens whose output they return.

A table is an int32 tensor `(K, L)`: entry (k, i) is the token that direction k visits at step i. Tokens have their
natural order: row-major, scale after scale, audio first or last as the scan requires. All forward directions come
first, then all reversed ones (Eq. 5 and 8). Tables are built once for each shape and device; do not write to them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

Sizes = Sequence[tuple[int, int]]

# Table VII. A name lists the axes from the slowest to the fastest.
ORIENTATIONS = {
    2: ("THW",),
    4: ("THW", "TWH"),
    6: ("THW", "TWH", "HWT"),
    8: ("THW", "TWH", "HWT", "WHT"),
    10: ("THW", "TWH", "HWT", "HTW", "WHT"),
    12: ("THW", "TWH", "HWT", "WHT", "HTW", "WTH"),
}


def cross_scan_2d(sizes: Sizes, device: torch.device | str = "cpu") -> Tensor:
    """Return four directions over the tokens of one frame: HW, WH and the reverses (VMamba; Eq. 5 for several scales).

    Args:
        sizes: (h, w) of each scale. Natural order: scale after scale, each row-major.
        device: of the table.

    Returns:
        `(4, sum h w)` int32.

    Raises:
        ValueError: if a size is not positive.
    """
    return _cached(_build_cross_scan, 1, _checked(sizes), 4, device=device)


def cross_scan_3d(num_frames: int, sizes: Sizes, num_orders: int = 8, device: torch.device | str = "cpu") -> Tensor:
    """Return the directions of the 3D scan over all frames and scales of a clip (Fig. 3, Eq. 8, Table VII).

    Args:
        num_frames: T.
        sizes: (h, w) of each scale. Natural order: scale after scale, each row-major in (T, h, w).
        num_orders: 2, 4, 6, 8, 10 or 12 directions.
        device: of the table.

    Returns:
        `(num_orders, sum T h w)` int32.

    Raises:
        ValueError: if a size is not positive or `num_orders` is none of these.
    """
    if num_orders not in ORIENTATIONS:
        raise ValueError(f"num_orders: expected one of {sorted(ORIENTATIONS)}, got {num_orders}")
    return _cached(_build_cross_scan, _positive("num_frames", num_frames), _checked(sizes), num_orders, device=device)


def v2a(num_frames: int, height: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, tuple[int, int]]:
    """Return order and output range of vision to audio: THW, TWH and the reverses, audio last (Eq. 13 and 17).

    Natural order: T h w visual tokens, then T audio tokens. Reversed directions visit the audio in reversed time too.
    The frame-level scan is that of one frame: cross-scan, then the audio token in all four directions.

    Returns:
        `(4, T h w + T)` int32, and (start, length) of the audio tokens.
    """
    return _with_audio(num_frames, height, width, False, device), (num_frames * height * width, num_frames)


def a2v(num_frames: int, height: int, width: int, device: torch.device | str = "cpu") -> tuple[Tensor, tuple[int, int]]:
    """Return order and output range of audio to vision: audio first, then THW, TWH and the reverses (Eq. 18).

    Natural order: T audio tokens, then T h w visual tokens. Reversed directions visit the audio in reversed time too.

    Returns:
        `(4, T + T h w)` int32, and (start, length) of the visual tokens.
    """
    return _with_audio(num_frames, height, width, True, device), (num_frames, num_frames * height * width)


def one_way(length: int, reverse: bool = False, device: torch.device | str = "cpu") -> Tensor:
    """Return one direction over a sequence: its own order, or the reverse (Vim).

    Returns:
        `(1, length)` int32.
    """
    return _cached(_build_one_way, _positive("length", length), reverse, device=device)


def is_order_table(order: Tensor) -> bool:
    """Return whether this module built `order`, which then is known to hold permutations."""
    return getattr(order, _MARK, False)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return value


def _checked(sizes: Sizes) -> tuple[tuple[int, int], ...]:
    if not len(sizes) or any(h < 1 or w < 1 for h, w in sizes):
        raise ValueError(f"sizes: expected positive (height, width) pairs, got {tuple(sizes)}")
    return tuple((h, w) for h, w in sizes)


def _build_one_way(length: int, reverse: bool, device: torch.device | str) -> Tensor:
    steps = torch.arange(length, device=device).int()
    return (steps.flip(0) if reverse else steps).unsqueeze(0)


def _unfold(num_frames: int, height: int, width: int, orientation: str, device: torch.device | str) -> Tensor:
    """Return the tokens of one `(T, h, w)` map in the order of a name such as 'TWH'."""
    grid = torch.arange(num_frames * height * width, device=device).view(num_frames, height, width)
    return grid.permute(["THW".index(axis) for axis in orientation]).flatten()


def _build_cross_scan(
    num_frames: int, sizes: tuple[tuple[int, int], ...], num_orders: int, device: torch.device | str
) -> Tensor:
    forward = []
    for orientation in ORIENTATIONS[num_orders]:
        start, parts = 0, []
        for height, width in sizes:
            parts.append(_unfold(num_frames, height, width, orientation, device) + start)
            start += num_frames * height * width
        forward.append(torch.cat(parts))
    table = torch.stack(forward)
    return torch.cat([table, table.flip(1)]).int()


def _with_audio(num_frames: int, height: int, width: int, first: bool, device: torch.device | str) -> Tensor:
    _positive("num_frames", num_frames)
    return _cached(_build_with_audio, num_frames, *_checked([(height, width)])[0], first, device=device)


def _build_with_audio(num_frames: int, height: int, width: int, first: bool, device: torch.device | str) -> Tensor:
    visual = _build_cross_scan(num_frames, ((height, width),), 4, device)
    time = torch.arange(num_frames, device=device)
    audio = torch.stack([time, time, time.flip(0), time.flip(0)])
    if first:
        return torch.cat([audio, visual + num_frames], dim=1).int()
    return torch.cat([visual, audio + num_frames * height * width], dim=1).int()


_cache: dict[tuple, Tensor] = {}
_MARK = "_avsmamba_order_table"


def _cached(build: Callable[..., Tensor], *key: Any, device: torch.device | str) -> Tensor:
    """Return the table of `build(*key)` on `device`; the same tensor at each call.

    While a graph is traced (torch.compile, torch.export) it builds its table itself: a tensor from outside would fix
    its sizes, and tensors of the trace must not be kept. Nor must those of a FakeTensorMode.
    """
    if torch.compiler.is_compiling():
        return build(*key, device)
    fake = detect_fake_mode() is not None
    full_key = (build.__name__, *key, str(torch.device(device)))
    if fake or full_key not in _cache:
        table = build(*key, "cpu").to(device)
        setattr(table, _MARK, True)
        if fake:
            return table
        _cache[full_key] = table
    return _cache[full_key]
