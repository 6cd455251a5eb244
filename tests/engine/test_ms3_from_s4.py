"""MS3 started from S4: every pair of the table, and one of them from the first training to a shipped model."""

from pathlib import Path

import pytest
import torch

from avsmamba.checkpoint.build import build_model
from avsmamba.config import yaml_io
from avsmamba.config.load import load_config
from avsmamba.config.variants import Variants
from avsmamba.engine.train import train
from avsmamba.model_zoo.load import load_trained
from avsmamba.model_zoo.publish import publish_model
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from avsmamba.utils import UserError
from tests import ROOT
from tests.config.test_load import fails

TABLE = ROOT / "configs" / "ms3_from_s4.yaml"
BASES = list(Variants(TABLE, yaml_io.read(TABLE)).bases)
SIZE = '[{"type": "Resize", "size": 32}]'


@pytest.mark.parametrize("base", BASES)
def test_weights_of_s4_fit_the_model_of_ms3(base):
    cfg = load_config(f"{TABLE}#{base}_from_s4")
    s4 = Path(cfg.load_from).parent.name
    (file,) = ROOT.glob(f"configs/*/{s4}.yaml")
    start = load_config(file)
    subsets = [c.train_dataloader.dataset.type for c in (start, cfg)]
    assert subsets == ["AVSBenchS4", "AVSBenchMS3"]
    assert Path(cfg.load_from).parts[0] == "work_dirs" and Path(cfg.load_from).name == "best_M_J_*.pth"
    assert start.model.backbone == cfg.model.backbone
    shapes = []
    for c in (start, cfg):
        c.model.backbone = {"type": "SmallConvBackbone"}  # full-size backbones take seconds
        shapes.append({name: tuple(x.shape) for name, x in build_model(c.model, device="meta").state_dict().items()})
    assert shapes[0] == shapes[1]
    # Without the start it is the plain config of MS3.
    plain = load_config(TABLE.parent / yaml_io.read(TABLE)["bases"][base]["config"]["_base_"])
    plain.model.backbone = cfg.model.backbone
    assert {**cfg.to_dict(), "load_from": None} == {**plain.to_dict(), "load_from": None}


def test_from_s4_to_a_shipped_model(tmp_path, monkeypatch, capfd):
    """In a folder of its own, with the commands' own work dirs."""
    for subset in ("s4", "ms3"):
        make_sounding_shapes(tmp_path / "data", subset, {"train": 4, "val": 2, "test": 2}, size=40, seed=1)
    monkeypatch.chdir(tmp_path)
    options = [f"{name}_dataloader.dataset.pipeline={SIZE}" for name in ("train", "val", "test")]
    options += [f"{name}_dataloader.num_workers=0" for name in ("train", "val", "test")]
    options += ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "visualizer=null"]
    ms3, data = f"{TABLE}#avsbigen_tiny_from_s4", str(tmp_path / "data")
    with pytest.raises(UserError, match=r"load_from: work_dirs/avsbigen_tiny_s4_shapes/best_M_J_\*\.pth: no such"):
        train(ms3, options=options, data_root=data)

    train(ROOT / "configs/baselines/avsbigen_tiny_s4_shapes.yaml", options=options, data_root=data)
    capfd.readouterr()
    still = ["optim_wrapper.optimizer.lr=0", "param_scheduler=null"]
    assert train(ms3, options=options + still, data_root=data) == Path("work_dirs/avsbigen_tiny_from_s4")
    assert "Weights of work_dirs/avsbigen_tiny_s4_shapes/best_M_J_iter_2.pth" in capfd.readouterr().out
    found = [
        torch.load(f"work_dirs/{name}/best_M_J_iter_2.pth", weights_only=True)["state_dict"]
        for name in ("avsbigen_tiny_s4_shapes", "avsbigen_tiny_from_s4")
    ]
    weights = [name for name in found[0] if not is_buffer(name)]
    branch = [name for name in weights if name.startswith("matching_losses.")]
    assert len(branch) == 8 and len(weights) > 100
    assert all(torch.equal(found[0][name], found[1][name]) for name in weights)

    # The generation branch was trained, is resumed, and belongs to the model that is loaded and shipped.
    first = torch.load("work_dirs/avsbigen_tiny_s4_shapes/iter_2.pth", weights_only=True)
    assert len(first["optimizer"]["state"]) == len(weights)
    config, checkpoint = "work_dirs/avsbigen_tiny_from_s4/avsbigen_tiny_from_s4.yaml", "iter_2.pth"
    path = Path(config).with_name(checkpoint)
    trained = load_trained(config, path)
    assert torch.equal(trained.model.state_dict()[branch[0]], found[1][branch[0]])
    folder = publish_model(config, path, tmp_path / "models" / "bigen", about="A test.")
    assert load_trained(folder).num_frames == 5
    start = f"load_from={tmp_path}/work_dirs/avsbigen_tiny_s4_shapes/iter_2.pth"
    fails(["iter_2.pth", "matching_losses.0.join.weight is (1, 9), the model's (1, 4)"], train, ms3,
          "work_dirs/other", options=[*options, start, "model.matching_losses.0.grid=2"], data_root=data)  # fmt: skip


def is_buffer(name):
    return name.endswith(("running_mean", "running_var", "num_batches_tracked")) or name.startswith("data_preproc")
