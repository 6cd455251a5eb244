"""The semantic scores written out in numpy: frame by frame, class by class. Shares no code."""

import numpy as np


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
