"""The semantic scores written out in numpy: frame by frame, class by class. Shares no code."""

import numpy as np
from PIL import Image


def frame_class(predicted, true, c):
    """(IoU, F, whether the class counts) of one class in one frame."""
    p, g = predicted == c, true == c
    hits, false, missed = np.sum(p & g), np.sum(p & ~g), np.sum(~p & g)
    if hits + false + missed == 0:
        return 0.0, 0.0, False
    iou = hits / (hits + false + missed)
    if hits == 0:
        return iou, 0.0, True
    precision, recall = hits / (hits + false), hits / (hits + missed)
    return iou, 1.3 * precision * recall / (0.3 * precision + recall), True


def by_class(frames, num_classes):
    """`(C, 2)` IoU and F of frames `(predicted, true)`."""
    table = np.zeros((num_classes, 2))
    for c in range(num_classes):
        found = [frame_class(p, g, c) for p, g in frames]
        counted = [(iou, f) for iou, f, counts in found if counts]
        if counted:
            table[c] = np.mean(counted, 0)
    return table


def scored_frames(clips):
    """Of clips `(predicted (T, h, w), true (T, h, w), labelled (T,), exists (T,))`."""
    return [(p, g) for clip in clips for p, g, ok, there in zip(*clip, strict=True) if ok and there]


def public(clips, num_classes):
    """As the public scripts: padded frames are frames of background, predicted and true."""
    frames = scored_frames(clips)
    frames += [(g * 0, g * 0) for clip in clips for _, g, _, there in zip(*clip, strict=True) if not there]
    return by_class(frames, num_classes)


def at_224(clips, seen):
    """The clips as the scripts see them: truth and prediction (at the frames' size) by Pillow's nearest pixel."""

    def resized(pictures):
        return np.stack([np.asarray(Image.fromarray(p).resize((224, 224), Image.NEAREST)) for p in pictures])

    return [(resized(other), resized(true), *flags) for (_, true, *flags), other in zip(clips, seen, strict=True)]


def means_of_classes(groups, num_classes, first):
    """Of groups of frames: the mean over the classes that count in a group, averaged over groups."""
    found = []
    for frames in groups:
        counted = [c for c in range(first, num_classes) if any(frame_class(p, g, c)[2] for p, g in frames)]
        if counted:
            found.append(by_class(frames, num_classes)[counted].mean(0))
    return tuple(np.mean(found, 0))


def pooled(frames, num_classes):
    predicted, true = (np.concatenate([f[i].ravel() for f in frames]) for i in (0, 1))
    return np.array([frame_class(predicted, true, c)[:2] for c in range(num_classes)])


def conventions(clips, num_classes, size):
    frames = scored_frames(clips)
    found = {}
    for suffix, first in (("", 0), ("/no_background", 1)):
        found |= {
            f"frame/{size}{suffix}": tuple(by_class(frames, num_classes)[first:].mean(0)),
            f"avsbench/{size}{suffix}": tuple(public(clips, num_classes)[first:].mean(0)),
            f"frame_mean/{size}{suffix}": means_of_classes([[f] for f in frames], num_classes, first),
            f"video/{size}{suffix}": means_of_classes([scored_frames([c]) for c in clips], num_classes, first),
            f"pooled/{size}{suffix}": tuple(pooled(frames, num_classes)[first:].mean(0)),
        }
    return found
