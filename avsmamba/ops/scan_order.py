"""The orders in which the paper's scans visit their tokens, as tables.

A table is an int32 tensor `(K, L)`: entry (k, i) is the token that direction k visits at step i. Tokens lie in their
natural order: row-major, scale after scale, audio where the scan says. All forward directions stand first, then all
reversed ones (Eq. 5 and 8). Tables are made once for each shape and device; they must not be written to.
"""

from collections.abc import Sequence

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
    """Four directions over the tokens of one frame: HW, WH and the reverses (VMamba; Eq. 5 for several scales).

    Args:
        sizes: (h, w) of each scale. Natural order: scale after scale, each row-major.
        device: where the table shall be.

    Returns:
        `(4, sum h w)` int32.

    Raises:
        ValueError: if a size is not positive.
    """
    return _place(_cross_scan, 1, _checked(sizes), 4, device=device)


def cross_scan_3d(num_frames: int, sizes: Sizes, num_orders: int = 8, device: torch.device | str = "cpu") -> Tensor:
    """The directions of the 3D scan over all frames and scales of a clip (Fig. 3, Eq. 8, Table VII).

    Args:
        num_frames: T.
        sizes: (h, w) of each scale. Natural order: scale after scale, each row-major in (T, h, w).
        num_orders: 2, 4, 6, 8, 10 or 12 directions.
        device: where the table shall be.

    Returns:
        `(num_orders, sum T h w)` int32.

    Raises:
        ValueError: if a size is not positive or `num_orders` is none of these.
    """
    if num_orders not in ORIENTATIONS:
        raise ValueError(f"num_orders: expected one of {sorted(ORIENTATIONS)}, got {num_orders}")
    return _place(_cross_scan, _positive("num_frames", num_frames), _checked(sizes), num_orders, device=device)


def v2a_frame(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Frame-level vision to audio: cross-scan of one frame, then its audio token, in all four directions (Eq. 13).

    Natural order: h w visual tokens, then one audio token.

    Returns:
        `(4, h w + 1)` int32.
    """
    return _place(_with_audio, 1, *_checked([(height, width)])[0], "frame", device=device)


def v2a_temporal(num_frames: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Temporal-level vision to audio: THW, TWH and the reverses, then the T audio tokens (Eq. 17).

    Natural order: T h w visual tokens, then T audio tokens. Reversed directions visit the audio in reversed time too.

    Returns:
        `(4, T h w + T)` int32.
    """
    t = _positive("num_frames", num_frames)
    return _place(_with_audio, t, *_checked([(height, width)])[0], "last", device=device)


def a2v(num_frames: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Audio to vision: the T audio tokens, then THW, TWH and the reverses (Eq. 18).

    Natural order: T audio tokens, then T h w visual tokens. Reversed directions visit the audio in reversed time too.

    Returns:
        `(4, T + T h w)` int32.
    """
    t = _positive("num_frames", num_frames)
    return _place(_with_audio, t, *_checked([(height, width)])[0], "first", device=device)


def one_way(length: int, reverse: bool = False, device: torch.device | str = "cpu") -> Tensor:
    """One direction over a sequence: its own order, or the reverse (Vim).

    Returns:
        `(1, length)` int32.
    """
    return _place(_one_way, _positive("length", length), reverse, device=device)


def is_order_table(order: Tensor) -> bool:
    """Whether `order` is a table that this module made (and so is known to hold permutations)."""
    return getattr(order, _MARK, False)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return value


def _checked(sizes: Sizes) -> tuple[tuple[int, int], ...]:
    if not len(sizes) or any(h < 1 or w < 1 for h, w in sizes):
        raise ValueError(f"sizes: expected positive (height, width) pairs, got {tuple(sizes)}")
    return tuple((h, w) for h, w in sizes)


def _one_way(length: int, reverse: bool, device: torch.device | str) -> Tensor:
    steps = torch.arange(length, device=device).int()
    return (steps.flip(0) if reverse else steps).unsqueeze(0)


def _unfold(num_frames: int, height: int, width: int, orientation: str, device: torch.device | str) -> Tensor:
    """Tokens of one `(T, h, w)` map in the order of a name such as 'TWH'."""
    grid = torch.arange(num_frames * height * width, device=device).view(num_frames, height, width)
    return grid.permute(["THW".index(axis) for axis in orientation]).flatten()


def _cross_scan(
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


def _with_audio(num_frames: int, height: int, width: int, place: str, device: torch.device | str) -> Tensor:
    visual = _cross_scan(num_frames, ((height, width),), 4, device)
    if place == "frame":
        return torch.cat([visual, torch.full((4, 1), height * width, device=device)], dim=1).int()
    time = torch.arange(num_frames, device=device)
    audio = torch.stack([time, time, time.flip(0), time.flip(0)])
    if place == "last":
        return torch.cat([visual, audio + num_frames * height * width], dim=1).int()
    return torch.cat([audio, visual + num_frames], dim=1).int()


_placed: dict[tuple, Tensor] = {}
_MARK = "_avsmamba_order_table"


def _place(make, *key, device: torch.device | str) -> Tensor:
    """Make the table of `make(*key)` on `device`; the same tensor on each call.

    A graph that is traced (torch.compile, torch.export) makes its table itself: a tensor from outside would tie it to
    one size, and what tracing makes must not be kept. Nor must what a FakeTensorMode makes.
    """
    if torch.compiler.is_compiling():
        return make(*key, device)
    fake = detect_fake_mode() is not None
    where = (make.__name__, *key, str(torch.device(device)))
    if fake or where not in _placed:
        table = make(*key, "cpu").to(device)
        setattr(table, _MARK, True)
        if fake:
            return table
        _placed[where] = table
    return _placed[where]
