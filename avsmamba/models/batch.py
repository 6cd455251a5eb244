"""A batch of clips: its checks, the frames that exist and are labelled, selecting and resizing."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avsmamba.models.head import HeadOutput
from avsmamba.structures import AVSDataSample


def each(function: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Any]) -> Any:
    """Apply a function to the tensors at the same position of several nested tuples; None stays None."""
    if values[0] is None:
        return None
    if isinstance(values[0], tuple):
        return tuple(each(function, same) for same in zip(*values, strict=True))
    return function(values)


def at(index: Tensor, x: Tensor) -> Tensor:
    """Select along the first axis by an index on the CPU, without synchronising another device."""
    return x.index_select(0, index.to(x.device, non_blocking=True))


def existing_places(counts: Sequence[int], num_frames: int) -> Tensor:
    """List the frames that exist among all `B * T` of a batch of clips."""
    return torch.tensor([b * num_frames + t for b, count in enumerate(counts) for t in range(count)])


def by_length(
    run: Callable[[list[Tensor], Tensor], list[HeadOutput]],
    maps: Sequence[Tensor],
    audio: Tensor,
    counts: Sequence[int],
    num_frames: int,
) -> list[HeadOutput]:
    """Call `run` once for each number of frames in a batch of clips.

    Args:
        run: maps `(b, t, h_i, w_i, C)` and audio `(b, t, C)` of b clips with t frames to outputs of the head.
        maps: `(1, N, h_i, w_i, C)` of all N frames that exist, clip by clip.
        audio: `(1, N, C)`.
        counts: frames of each of the B clips.
        num_frames: T, with padding.

    Returns:
        outputs of B clips with T frames, with zeros in padded frames.
    """
    batch = len(counts)
    start = [sum(counts[:b]) for b in range(batch)]
    parts, order = [], []
    for count in sorted(set(counts)):
        index = [start[b] + t for b, c in enumerate(counts) if c == count for t in range(count)]
        clips = torch.tensor(index)
        *maps_of, audio_of = (at(clips, x[0]).unflatten(0, (-1, count)) for x in (*maps, audio))
        parts.append(run(maps_of, audio_of))
        order += index
    place = existing_places(counts, num_frames)[order]

    def whole(values: Sequence[Tensor]) -> Tensor:
        flat = torch.cat([t.flatten(0, 1) for t in values])
        result = flat.new_zeros(batch * num_frames, *flat.shape[1:])
        return result.index_copy(0, place.to(flat.device), flat).unflatten(0, (batch, num_frames))

    return [HeadOutput(*each(whole, outputs)) for outputs in zip(*parts, strict=True)]


def labelled_indices(sample: AVSDataSample) -> list[int]:
    """List the frames of a clip that are labelled and exist."""
    labelled = sample.gt_temporal_mask_flag.tolist()
    exists = flags.tolist() if (flags := sample.get("vid_temporal_mask_flag")) is not None else [True] * len(labelled)
    return [t for t, (a, b) in enumerate(zip(labelled, exists, strict=True)) if a and b]


def resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the last two axes bilinearly; leading axes are kept."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    flat = logits.flatten(0, -4) if logits.ndim > 4 else logits
    return F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False).unflatten(0, logits.shape[:-3])


def existing_frames(data_samples: Sequence[AVSDataSample] | None, shape: Sequence[int]) -> list[int] | None:
    """Count the frames of each clip that exist, by `vid_temporal_mask_flag`; None without samples or if all exist.

    Args:
        data_samples: B samples, or None; one without the flag has all frames.
        shape: (B, T).

    Raises:
        ValueError: if there are not B samples, or a flag is not of length T, has padding before a frame that exists,
            or no such frame; names the clip.
    """
    if not data_samples:
        return None
    batch, num_frames = shape
    if len(data_samples) != batch:
        raise ValueError(f"data_samples: expected {batch} to go with the frames, got {len(data_samples)}")
    counts = []
    for i, sample in enumerate(data_samples):
        flag = sample.get("vid_temporal_mask_flag")
        values = [True] * num_frames if flag is None else [bool(v) for v in flag.tolist()]
        count = sum(values)
        if len(values) != num_frames or not count or not all(values[:count]):
            raise ValueError(
                f"{sample.get('clip', f'clip {i} of the batch')}: vid_temporal_mask_flag: expected {num_frames} flags, "
                f"padding behind one existing frame or more, got {[int(v) for v in values]}"
            )
        counts.append(count)
    return None if min(counts) == num_frames else counts


def check_inputs(frames: Tensor, log_mel: Tensor) -> None:
    """Raise a ValueError that names the argument whose shape does not fit."""
    if frames.ndim != 5 or frames.shape[2] != 3:
        raise ValueError(f"frames: expected (B, T, 3, H, W), got {tuple(frames.shape)}")
    if frames.shape[-2] % 32 or frames.shape[-1] % 32:
        raise ValueError(f"frames: H and W must be multiples of 32, got {tuple(frames.shape[-2:])}")
    expected = (*frames.shape[:2], 1, 96, 64)
    if tuple(log_mel.shape) != expected:
        raise ValueError(f"log_mel: expected {expected} to go with the frames, got {tuple(log_mel.shape)}")


def padded_masks(masks: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Return B clips' masks `(T, h_b, w_b)` in one tensor `(B, T, H, W)`, with zeros at the right and bottom."""
    return torch.stack([F.pad(m, (0, size[1] - m.shape[-1], 0, size[0] - m.shape[-2])) for m in masks])
