"""Training with wrong sounds among the right ones: the same clips whatever was interrupted."""

import torch

from avsmamba.engine.train import train as run_training
from tests.small_model import NEGATIVES, SMALL

OPTIONS = [*SMALL, "val_dataloader=null", "val_cfg=null"]
OPTIONS += ["val_evaluator=null", "train_dataloader.batch_size=2", "visualizer.vis_backends=[{type: LocalVisBackend}]"]
OPTIONS += ["default_hooks.checkpoint={type: CheckpointHook, interval: 2, max_keep_ckpts: -1}"]


def train(work_dir, shapes, prob=0.5, **more):
    prob = f"train_dataloader.dataset.negative_audio_prob={prob}"
    options = [*OPTIONS, "train_cfg={by_epoch: false, max_iters: 4}", prob]
    run_training(NEGATIVES, str(work_dir), options=options, data_root=str(shapes), **more)
    return torch.load(work_dir / "iter_4.pth", weights_only=True)["state_dict"]


def test_a_resumed_training_hears_what_an_unbroken_one_hears(shapes, tmp_path):
    whole = train(tmp_path / "whole", shapes)
    resumed = train(tmp_path / "resumed", shapes, resume=str(tmp_path / "whole" / "iter_2.pth"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    without = train(tmp_path / "without", shapes, prob=0.0)
    assert not all(torch.equal(whole[key], without[key]) for key in whole)
