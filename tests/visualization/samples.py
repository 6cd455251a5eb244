"""Small clips as the loader and the model hand them to the hook."""

import torch

from avsmamba.structures import AVSDataSample


def batch(subset="ms3", clips=1, frames=5, size=(40, 56), labels=(30, 44), labelled=None, exists=None, audio="real"):
    """A data batch and its predictions; clip i is called `a-b_0000i`, its category `cat_i`; AVSS has 5 classes."""
    generator = torch.Generator().manual_seed(3)
    data = {"frames": [], "log_mel": [], "data_samples": []}
    for i in range(clips):
        name = f"a-b_{i:05d}"
        stem = name if subset == "s4" else f"{name}.mp4"
        names = [f"{t}.png" if subset == "avss" else f"{stem}_{t + 1}.png" for t in range(frames)]
        data["frames"].append(torch.randint(0, 256, (frames, 3, *size), dtype=torch.uint8, generator=generator))
        data["log_mel"].append(torch.randn(frames, 1, 96, 64, generator=generator))
        sample = AVSDataSample(
            metainfo={
                "clip": name,
                "category": f"cat_{i}",
                "split": "test",
                "subset": subset,
                "part": "v1m" if subset == "avss" else "",
                "frame_names": names,
                "ori_shape": labels,
                "img_shape": size,
                "clip_index": i,
                "audio": audio,
            }
        )
        sample.gt_masks = (torch.rand(frames, *labels, generator=generator) > 0.5).to(torch.uint8)
        sample.gt_temporal_mask_flag = torch.tensor([True] * frames if labelled is None else labelled)
        sample.vid_temporal_mask_flag = torch.tensor([True] * frames if exists is None else exists)
        if subset == "avss":
            sample.gt_masks = torch.randint(0, 5, (frames, *labels), dtype=torch.uint8, generator=generator)
            sample.pred_labels = torch.randint(0, 5, (frames, *labels), dtype=torch.uint8, generator=generator)
        else:
            sample.pred_logits = torch.randn(frames, 1, *labels, generator=generator)
        data["data_samples"].append(sample)
    return data, data["data_samples"]
