"""The smallest model, data and metric that show every trap: dropout, augmentation noise, an uneven test set."""

import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from avsmamba.registry import DATASETS, METRICS, MODELS
from avsmamba.structures import AVSDataSample
from avsmamba.utils import UserError
from tests import ROOT

TRAIN = (sys.executable, "-m", "tests.engine.drive", "train")  # a training of these parts in a process of its own
TEST_SIZE = 7  # not a multiple of two processes or of the batch


@MODELS.register_module()
class StandInHead(nn.Module):
    def __init__(self, embed_dims: int, num_classes: int = 1, dropout: float = 0.3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embed_dims, 8), nn.Dropout(dropout), nn.Linear(8, num_classes))

    def forward(self, x):
        return self.layers(x)


@MODELS.register_module()
class StandInModel(BaseModel):
    def __init__(self, head: dict, embed_dims: int = 4, norm: bool = True, explode_at: int = -1):
        super().__init__()
        self.norm = nn.BatchNorm1d(embed_dims) if norm else nn.Identity()
        self.head = MODELS.build(head, default_args={"embed_dims": embed_dims})
        self.explode_at, self.calls = explode_at, 0
        self.dtypes = {}

    def forward(self, x, data_samples=None, mode="tensor"):
        x = torch.stack(x) if isinstance(x, list) else x
        y = self.head(self.norm(x)).squeeze(1)
        self.dtypes[mode] = y.dtype
        if mode == "loss":
            self.calls += 1
            loss = (y.float() - torch.stack(data_samples)).square().mean()
            return {"loss_square": loss * (float("nan") if self.calls == self.explode_at else 1)}
        return [{"score": float(v)} for v in y] if mode == "predict" else y


@DATASETS.register_module()
class StandInDataset(torch.utils.data.Dataset):
    def __init__(
        self,
        data_root: str,
        split: str,
        size: int = 12,
        audio: str = "real",
        noise: float = 0.5,
        faulty: int | None = None,
    ):
        self.split, self.noise, self.audio, self.data_root, self.faulty = split, noise, audio, data_root, faulty
        self.x = torch.randn(size, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i == self.faulty:
            raise UserError(f"{self.data_root}/{i}.png: expected 5 frames, found 4")
        x = self.x[i] * (self.audio == "real")
        if self.split == "train":
            x = x + self.noise * (torch.randn(4) + float(np.random.randn()))
        return {"x": x, "data_samples": x.sum()}


@DATASETS.register_module()
class StandInClips(torch.utils.data.Dataset):
    """What AVSSegmentor takes, of noise."""

    def __init__(self, clips: int = 2, num_frames: int = 2, size: int = 32):
        self.clips, self.num_frames, self.size = clips, num_frames, size

    def __len__(self):
        return self.clips

    def __getitem__(self, i):
        shape = (self.num_frames, self.size, self.size)
        sample = AVSDataSample(gt_masks=torch.randint(0, 2, shape, dtype=torch.uint8))
        sample.gt_temporal_mask_flag = torch.ones(self.num_frames, dtype=torch.bool)
        frames = torch.randint(0, 256, (self.num_frames, 3, self.size, self.size), dtype=torch.uint8)
        return {"frames": frames, "log_mel": torch.randn(self.num_frames, 1, 96, 64), "data_samples": sample}


@METRICS.register_module()
class StandInMetric(BaseMetric):
    def __init__(self, batch_size: int = 1, collect_device: str = "gpu"):
        super().__init__(collect_device=collect_device)
        self.batch_size = batch_size

    def process(self, data_batch, data_samples):
        self.results += [s["score"] for s in data_samples]

    def compute_metrics(self, results):
        # The order counts, so that a shuffled or padded gathering cannot give the same score.
        score = sum(r * (i + 1) for i, r in enumerate(results)) / 1000
        counts = {"clips": float(len(results)), "frames": 5.0 * len(results), "avsbench/batch_size": 1.0}
        counts["foreground"] = sum(r > 0 for r in results) / len(results)
        return {"M_J": score, "M_F": score / 2, "avsbench/M_J": score, "avsbench/M_F": score, **counts}


def config(tmp_path, loop="epoch", workers=0, persistent=False, size=12, **top):
    """Write a config as YAML to `tmp_path`."""
    from avsmamba.config import yaml_io

    by_epoch = loop == "epoch"
    loader = {"batch_size": 3, "num_workers": workers, "persistent_workers": persistent and workers > 0}
    train = {
        **loader,
        "sampler": {"type": "DefaultSampler", "shuffle": True} if by_epoch else {"type": "InfiniteSampler"},
    }
    train["dataset"] = {"type": "StandInDataset", "data_root": "nowhere", "split": "train", "size": size}
    test = {"batch_size": 1, "num_workers": 0, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    test["dataset"] = {"type": "StandInDataset", "data_root": "nowhere", "split": "test", "size": TEST_SIZE}
    values = {
        "_base_": str(ROOT / "configs/_base_/runtime.yaml"),
        "model": {"type": "StandInModel", "head": {"type": "StandInHead"}},
        "train_dataloader": train,
        "val_dataloader": test,
        "test_dataloader": test,
        "val_evaluator": {"type": "StandInMetric"},
        "test_evaluator": {"type": "StandInMetric"},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.01}},
        "param_scheduler": [{"type": "PolyLR", "power": 0.9, "by_epoch": by_epoch}],
        "train_cfg": {"by_epoch": True, "max_epochs": 4}
        if by_epoch
        else {"by_epoch": False, "max_iters": 16, "val_interval": 4},
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
        "visualizer": {"vis_backends": [{"type": "LocalVisBackend"}]},
        **top,
    }
    path = Path(tmp_path) / f"{loop}.yaml"
    path.write_text(yaml_io.dump(values))
    return path
