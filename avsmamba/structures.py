"""The data of one clip on its way from the data set through the model to the metric."""

from mmengine.structures import BaseDataElement


class AVSDataSample(BaseDataElement):
    """One clip's labels, flags and predictions; T frames, labels of h x w pixels.

    Data fields:
        gt_masks: `(T, h, w)` uint8, 1 where an object sounds (S4, MS3), or class indices, 0 for the background (AVSS).
        gt_temporal_mask_flag: `(T,)` bool, frames that are labelled.
        vid_temporal_mask_flag: `(T,)` bool, frames that exist; padding follows them.
        pred_logits: `(T, 1, h, w)` float32, set by prediction of one class.
        pred_labels: `(T, h, w)` uint8 class indices, set by prediction of several classes; 0 in padding.
        frame_logits, frame_labels: `(T, 1, H, W)` and `(T, H, W)`, the same at the frames' size in the
            model; scores at other sizes than the labels' are computed from them.

    Meta information: `clip`, `category`, `split`, `subset`, `part` (of AVSS: v1s, v1m, v2), `frame_names`,
    `ori_shape` (h, w) of the labels, `img_shape` (H, W) of the frames in the model, `clip_index`, `audio`.
    """
