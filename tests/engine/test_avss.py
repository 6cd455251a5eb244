"""AVSS from generated clips to masks on disk: a step of training, then a test with pictures and masks."""

import json

import numpy as np
import pytest
from PIL import Image

from avsmamba.datasets import AVSBenchAVSS
from avsmamba.datasets.readers import read_class_colours, read_class_indices
from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.train import train
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from avsmamba.utils import UserError
from tests import ROOT

CONFIG = ROOT / "configs/avs_mamba/avs_mamba_tiny_avss_shapes.yaml"
SIZE = [{"type": "Resize", "size": 32}]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    make_sounding_shapes(root, "avss", {"train": 6, "val": 2, "test": 6}, size=40, seed=1)
    return root


def options(**more):
    words = [f"{name}_dataloader.dataset.pipeline={json.dumps(SIZE)}" for name in ("train", "val", "test")]
    words += [f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")]
    words += ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "visualizer=null"]
    return words + [f"{key}={value}" for key, value in more.items()]


def test_from_clips_to_masks(shapes, tmp_path):
    train(CONFIG, str(tmp_path / "w"), options=options(), data_root=str(shapes))
    metrics = evaluate(
        CONFIG,
        tmp_path / "w/iter_2.pth",
        work_dir=str(tmp_path / "w"),
        out=str(tmp_path / "out"),
        show_dir=str(tmp_path / "show"),
        options=options(),
        data_root=str(shapes),
    )
    assert json.loads((tmp_path / "w/metrics.json").read_text()) == metrics
    data = AVSBenchAVSS(shapes, "test")
    assert list(metrics["classes"]) == list(data.metainfo["classes"]) and metrics["frames"] == 40
    for clip in data.clips:
        folder = tmp_path / "out/AVSS" / clip.part / clip.name
        for t in range(data.existing_frames(clip)):
            labels = read_class_indices(folder / f"labels_semantic/{t}.png")
            assert labels.shape == (40, 40) and labels.max() < 13
            assert np.array_equal(read_class_colours(folder / f"labels_rgb/{t}.png"), labels)
        with Image.open(tmp_path / "show" / clip.part / f"{clip.name}.png") as picture:
            assert picture.width > 176 * data.existing_frames(clip)
    assert len(list((tmp_path / "out").rglob("labels_semantic/*.png"))) == 40


def test_a_model_of_too_few_classes(shapes, tmp_path):
    with pytest.raises((UserError, ValueError), match="gt_masks: class index .* but the model has 2 classes"):
        train(CONFIG, str(tmp_path), options=options(**{"model.head.num_classes": 2}), data_root=str(shapes))
