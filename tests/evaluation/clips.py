"""Clips `(logits (T, h, w), masks (T, h, w), scored (T,))` as numpy arrays, and as data samples."""

import numpy as np
import torch

from avsmamba.structures import AVSDataSample

# Several masks of each kind, so that the best threshold differs between frames, batches and the whole set.
MASKS = ("blob", "empty", "full", "pixel")


def random_clip(rng, num_frames=5, size=(11, 7), kinds=MASKS, scale=None, scored=None):
    """Logits that follow the mask more or less, with another offset and sharpness for each frame."""
    logits = np.zeros((num_frames, *size), np.float32)
    masks = np.zeros((num_frames, *size), np.uint8)
    for x, g in zip(logits, masks, strict=True):
        kind = rng.choice(kinds)
        if kind == "full":
            g[:] = 1
        elif kind == "pixel":
            g[rng.integers(size[0]), rng.integers(size[1])] = 1
        elif kind == "blob":
            g[:] = rng.random(size) < rng.random()
        factor = rng.choice([0.3, 1, 5, 50]) if scale is None else scale
        x[:] = factor * (rng.normal(size=size) + rng.normal() + rng.choice([0, 2]) * g)
    return logits, masks, np.ones(num_frames, bool) if scored is None else scored


def random_clips(seed, count=6, **kwargs):
    rng = np.random.default_rng(seed)
    return [random_clip(rng, **kwargs) for _ in range(count)]


def sample(clip, index=0, exists=None):
    logits, masks, scored = clip
    sample = AVSDataSample(metainfo={"clip": f"clip_{index}", "clip_index": index, "ori_shape": masks.shape[1:]})
    sample.pred_logits = torch.from_numpy(logits).float()[:, None]
    sample.gt_masks = torch.from_numpy(masks)
    sample.gt_temporal_mask_flag = torch.from_numpy(scored)
    sample.vid_temporal_mask_flag = torch.ones(len(masks), dtype=torch.bool) if exists is None else exists
    return sample
