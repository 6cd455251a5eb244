"""The scores written out from the formulas in numpy: frame by frame, threshold by threshold. Shares no code."""

import numpy as np
from PIL import Image


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def iou(p, g):
    """g is binary, or soft with values in [0, 1]."""
    predicted, g = (p > 0.5).astype(np.float64), np.asarray(g, np.float64)
    if g.sum() == 0:
        return np.sum((1 - predicted) * (1 - g)) / (g.size + 1e-7)
    return np.sum(predicted * g) / (np.sum(np.maximum(predicted, g)) + 1e-7)


def f_from(hits, predicted, true):
    precision, recall = hits / (predicted + 1e-20), hits / (true + 1e-20)
    with np.errstate(invalid="ignore"):
        f = np.float64(1.3) * precision * recall / (0.3 * precision + recall)
    return 0.0 if np.isnan(f) else f


def counts_at_thresholds(p, g):
    """`(255, 2)`: what is rightly predicted, and what is predicted."""
    found = [p >= threshold for threshold in np.linspace(0, 1 - 1e-10, 255)]
    return np.array([(np.sum(g, where=above), np.sum(above)) for above in found])


def f_curve(p, g):
    return f_curve_from(counts_at_thresholds(p, g), np.sum(g))


def f_curve_from(counts, true):
    return np.array([f_from(hits, predicted, true) for hits, predicted in counts])


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


# Every convention. `frames` below are lists of clips, a clip a list of `(p, g)`.


def bilinear(x, size):
    """A picture at another size: corners between pixel centres, weights by distance, edges held."""
    x = np.asarray(x, np.float64)
    for axis, n in enumerate(size):
        centre = np.clip((np.arange(n) + 0.5) * x.shape[axis] / n - 0.5, 0, None)
        low = np.minimum(centre.astype(int), x.shape[axis] - 1)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        weight = (centre - low).reshape([-1 if i == axis else 1 for i in range(2)])
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x


def truth_at(g, size):
    """As the scripts' loaders: an 8-bit picture of 0 and 255, resized by Pillow, over 255."""
    picture = Image.fromarray((g != 0).astype(np.uint8) * 255)
    if size == "512_soft":
        return np.asarray(picture.resize((512, 512), Image.BILINEAR), np.float64) / 255
    return np.asarray(picture.resize((224, 224), Image.NEAREST), np.float64) / 255


def frames_at(clips, seen, size):
    found = []
    for (logits, masks, scored), other in zip(clips, seen, strict=True):
        clip = []
        for x, y, g, ok in zip(logits, other, masks, scored, strict=True):
            if ok and size == "own":
                clip.append((sigmoid(x), (g != 0).astype(np.float64)))
            elif ok:
                target = truth_at(g, size)
                # Masks of 224 x 224 are compared with what is predicted for them.
                source = x if g.shape == target.shape else y
                clip.append(
                    (sigmoid(source if source.shape == target.shape else bilinear(source, target.shape)), target)
                )
        found.append(clip)
    return found


def mean_f(curves):
    return np.max(np.mean(curves, 0)) if len(curves) else 0.0


def conventions(clips, seen, sizes=("own", "224", "512_soft")):
    """M_J and M_F by key; `seen` are the logits at the size of the frames."""
    scores = {}
    for size in sizes:
        every = frames_at(clips, seen, size)
        table = []
        for clip in every:
            counts = [counts_at_thresholds(p, g) for p, g in clip]
            table.append(
                [(iou(p, g), f_curve_from(c, g.sum()), c, p, g) for c, (p, g) in zip(counts, clip, strict=True)]
            )
        for suffix in ("", "/no_empty"):
            kept = [[f for f in clip if not suffix or f[4].sum() > 0] for clip in table]
            if any(kept):
                scores |= {f"{name}/{size}{suffix}": pair for name, pair in groupings(kept).items()}
    return scores


def groupings(clips):
    frames = [f for clip in clips for f in clip]
    sounding = [[f for f in clip if f[4].sum() > 0] for clip in clips]
    m_j = np.mean([f[0] for f in frames])
    curves = [f[1] for clip in sounding for f in clip]
    found = {"frame": (m_j, mean_f(curves)), "frame_best": (m_j, np.mean([c.max() for c in curves]) if curves else 0)}
    for n in (1, 2, 4):
        pairs = []
        for i in range(0, len(clips), n):
            batch = [f for clip in clips[i : i + n] for f in clip]
            if batch:
                pairs.append((np.mean([f[0] for f in batch]), mean_f([f[1] for f in batch if f[4].sum() > 0])))
        found[f"batch_{n}"] = tuple(np.mean(pairs, 0))
    videos = [np.mean([f[1] for f in clip], 0) for clip in sounding if clip]
    found["video"] = (np.mean([np.mean([f[0] for f in clip]) for clip in clips if clip]), mean_f(videos))
    inter = sum(np.sum((f[3] > 0.5) * f[4]) for f in frames)
    union = sum(np.sum(np.maximum(f[3] > 0.5, f[4])) for f in frames)
    true, at = sum(f[4].sum() for f in frames), np.sum([f[2] for f in frames], 0)
    found["pooled"] = (inter / (union + 1e-7), max(f_from(hits, predicted, true) for hits, predicted in at))
    return found
