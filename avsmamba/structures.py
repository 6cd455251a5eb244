"""What one clip carries from the data set through the model to the metric."""

from mmengine.structures import BaseDataElement


class AVSDataSample(BaseDataElement):
    """One clip's labels, flags and predictions; T frames, labels of h x w pixels.

    Data fields:
        gt_masks: `(T, h, w)` uint8, 1 where an object sounds (binary subsets).
        gt_temporal_mask_flag: `(T,)` bool, frames that are labelled.
        vid_temporal_mask_flag: `(T,)` bool, frames that exist (the rest is padding).
        pred_logits: `(T, N_class, h, w)` float32, set by prediction.

    Meta information: `clip`, `category`, `split`, `subset`, `frame_names`, `ori_shape` (h, w) of the labels,
    `img_shape` (H, W) of the frames as the model sees them, `clip_index`, `audio`.
    """
