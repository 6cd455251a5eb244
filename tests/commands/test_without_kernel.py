"""A training without the C++ scan: one warning, however long it runs."""

from tests import ROOT
from tests.commands.test_exit_status import run
from tests.engine.standins import config


def test_without_the_kernel_there_is_one_warning(tmp_path):
    bases = [str(ROOT / "configs/_base_" / f"{name}.yaml") for name in ("runtime", "models/avs_mamba_tiny")]
    off = {f"{mode}_{key}": None for mode in ("val", "test") for key in ("dataloader", "evaluator", "cfg")}
    loader = {
        "batch_size": 1,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": {"type": "StandInClips"},
    }
    train = {"train_cfg": {"by_epoch": True, "max_epochs": 2}, "train_dataloader": loader}
    path = config(tmp_path, _base_=bases, model={}, **train, **off)
    save = ["default_hooks.checkpoint.save_best=null"]
    status, out, err = run("train", path, "--work-dir", tmp_path / "w", "--cfg-options", *save, WITHOUT_KERNEL="1")
    assert status == 0, err
    assert "epoch 2/2 it 2/2 loss" in out
    assert err.count("Warning") == err.count("the C++ scan was not built") == 1
    assert "WARNING" not in out
