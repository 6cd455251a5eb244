"""The scores written out from the formulas in numpy: frame by frame, threshold by threshold. Shares no code."""

import numpy as np


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def iou(p, g):
    predicted = p > 0.5
    if not g.any():
        return np.sum(~predicted & ~g) / (g.size + 1e-7)
    return np.sum(predicted & g) / (np.sum(predicted | g) + 1e-7)


def f_curve(p, g):
    curve = []
    for threshold in np.linspace(0, 1 - 1e-10, 255):
        predicted = p >= threshold
        hits = np.sum(predicted & g)
        precision, recall = hits / (np.sum(predicted) + 1e-20), hits / (np.sum(g) + 1e-20)
        with np.errstate(invalid="ignore"):
            f = np.float64(1.3) * precision * recall / (0.3 * precision + recall)
        curve.append(0.0 if np.isnan(f) else f)
    return np.array(curve)


def frame(clips):
    """(M_J, M_F) of clips `(logits (T, h, w), masks (T, h, w), scored (T,))`."""
    frames = [(sigmoid(x), g != 0) for clip in clips for x, g, scored in zip(*clip, strict=True) if scored]
    curves = [f_curve(p, g) for p, g in frames if g.any()]
    return np.mean([iou(p, g) for p, g in frames]), np.max(np.mean(curves, 0)) if curves else 0.0


def avsbench(clips, batch_size):
    batches, batch = [], []
    for i, clip in enumerate(clips):
        batch.append(clip)
        if len(batch) == batch_size or i == len(clips) - 1:
            if any(np.any(scored) for _, _, scored in batch):
                batches.append(frame(batch))
            batch = []
    return tuple(np.mean(batches, 0))


def foreground(clips):
    frames = [x for clip in clips for x, _, scored in zip(*clip, strict=True) if scored]
    return np.mean([np.mean(sigmoid(x) > 0.5) for x in frames])
