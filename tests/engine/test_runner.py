"""A training and a test: what they leave behind, mixed precision, accumulation, and how they end when they fail."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from avsmamba.config import yaml_io
from avsmamba.config.load import load_config, parse_options
from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.optim import AutocastOptimWrapper, use_amp
from avsmamba.engine.runner import AVSRunner
from avsmamba.engine.train import train as run_training
from avsmamba.utils import UserError
from tests.config.test_load import fails
from tests.engine.standins import TEST_SIZE, config
from tests.engine.test_resume import load, train


def scalars(work_dir, key):
    """Return a logged value over the training, in the order of the log."""
    (file,) = Path(work_dir).glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_what_a_training_leaves(tmp_path, capfd):
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    path = config(tmp_path, visualizer={"vis_backends": backends})
    work_dir = tmp_path / "w"
    train(path, work_dir, "default_hooks.logger.interval=2", "train_dataloader.dataset.noise=0.1", "randomness.seed=7")
    out, err = capfd.readouterr()
    assert err == ""
    (log,) = work_dir.glob("*/*.log")
    for text in (out, log.read_text()):
        assert "epoch 4/4 it 4/4 loss " in text
        assert " lr " in text and " s/it data " in text and " eta 0:00:00" in text
        assert "val M_J " in text
        assert "seed 7" in text
    assert len(out.splitlines()) < 30

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(work_dir.glob("*/vis_data"))))
    events.Reload()
    assert len(events.Scalars("loss")) == 8  # every second of 16 iterations
    scores = [s.value for s in events.Scalars("M_J")]
    assert scores == pytest.approx(scalars(work_dir, "M_J"))
    best = max(range(4), key=scores.__getitem__) + 1
    assert [p.name for p in work_dir.glob("best_*")] == [f"best_M_J_epoch_{best}.pth"]

    record = json.loads((work_dir / "env.json").read_text())
    assert record["seed"] == 7
    assert record["torch"] == torch.__version__.partition("+")[0]
    assert all(record[key] for key in ("avsmamba", "mmengine", "timm", "numpy", "python", "platform", "command"))
    resolved = yaml_io.read(work_dir / path.name)
    assert "_base_" not in resolved
    assert resolved["randomness"] == {"seed": 7}
    assert resolved["default_hooks"]["checkpoint"]["by_epoch"] is True
    again = train(work_dir / path.name, tmp_path / "again")
    torch.testing.assert_close(again["state_dict"], load(work_dir / "epoch_4.pth")["state_dict"], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_workers_stop_with_the_training_and_start_again(tmp_path):
    persistent = {"val_dataloader.num_workers": 1, "val_dataloader.persistent_workers": True}
    cfg = load_config(config(tmp_path, "epoch", 1, True), {"train_cfg.max_epochs": 1, **persistent})
    cfg.work_dir = str(tmp_path / "w")
    runner = AVSRunner.from_cfg(cfg)
    before = set(multiprocessing.active_children())
    runner.train()
    assert set(multiprocessing.active_children()) <= before
    assert runner.val()["M_J"] == scalars(tmp_path / "w", "M_J")[0]


def test_null_drops_any_hook(tmp_path):
    path = config(tmp_path)
    for name in [*load_config(path).default_hooks, "runtime_info"]:
        options = ["train_cfg.max_epochs=1", f"default_hooks.{name}=null"]
        run_training(path, work_dir=str(tmp_path / name), options=options)
        saved = list((tmp_path / name).glob("epoch_1.pth"))
        assert len(saved) == (name != "checkpoint")


def test_a_config_in_its_own_work_dir_stays(tmp_path):
    path = config(tmp_path)
    before = path.read_text()
    train(path, tmp_path)
    assert path.read_text() == before
    assert yaml_io.read(tmp_path / "epoch.resolved.yaml")["model"]["type"] == "StandInModel"


def test_gradients_are_gathered_over_iterations(tmp_path):
    options = ["model.head.dropout=0", "model.norm=false", "train_dataloader.dataset.noise=0", "param_scheduler=null"]
    path = config(tmp_path)
    steps = {}
    for batch, count in ((2, 3), (6, 1)):
        runs = [f"train_dataloader.batch_size={batch}", f"optim_wrapper.accumulative_counts={count}"]
        steps[count] = train(path, tmp_path / f"{batch}", *options, *runs)
    assert steps[3]["optimizer"]["state"][0]["step"] == steps[1]["optimizer"]["state"][0]["step"] == 8
    assert steps[3]["meta"]["iter"] == 24
    torch.testing.assert_close(steps[3]["state_dict"], steps[1]["state_dict"])


def test_mixed_precision_trains_and_is_left_for_scores(tmp_path):
    path = config(tmp_path)
    cfg = load_config(path)
    use_amp(cfg)
    cfg.work_dir = str(tmp_path / "w")
    runner = AVSRunner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    assert isinstance(runner.optim_wrapper, AutocastOptimWrapper)
    assert runner.model.dtypes == {"loss": torch.bfloat16, "predict": torch.float32}
    after = runner.model.state_dict()
    assert all(v.dtype == before[k].dtype for k, v in after.items())
    assert not torch.equal(after["head.layers.0.weight"], before["head.layers.0.weight"])
    plain = train(path, tmp_path / "plain")["state_dict"]
    assert not torch.equal(after["head.layers.0.weight"], plain["head.layers.0.weight"])
    torch.testing.assert_close(after, plain, rtol=0.2, atol=0.1)
    tested = evaluate(path, tmp_path / "w" / "epoch_4.pth", work_dir=str(tmp_path / "t"))
    assert tested["frame"]["M_J"] == scalars(tmp_path / "w", "M_J")[-1]


def test_mixed_precision_from_the_command(tmp_path):
    path = config(tmp_path)
    train(path, tmp_path / "w", amp=True)
    assert yaml_io.read(tmp_path / "w" / path.name)["optim_wrapper"]["type"] == "AutocastOptimWrapper"
    options = parse_options(["train_cfg=null", "train_dataloader=null", "optim_wrapper=null", "param_scheduler=null"])
    fails("--amp: optim_wrapper.type must be OptimWrapper, got None", use_amp, load_config(path, options))
    fails("nothing to train", train, path, tmp_path / "n", *(f"{k}=null" for k in options))
    fails(["optim_wrapper:", "float16"], train, path, tmp_path / "h",
          "optim_wrapper={type: AutocastOptimWrapper, dtype: float16}")  # fmt: skip


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    path = config(tmp_path)
    fails("training stopped at epoch 2, iteration 6: loss is nan", train, path, tmp_path / "w", "model.explode_at=6")
    saved = sorted(p.name for p in (tmp_path / "w").glob("*.pth"))
    assert saved == ["best_M_J_epoch_1.pth", "epoch_1.pth"]
    assert all(v.isfinite().all() for v in load(tmp_path / "w" / "epoch_1.pth")["state_dict"].values())


@pytest.mark.parametrize(
    "option, words",
    [
        ("default_hooks.checkpoint.save_best=mIoU", ["save_best: no metric 'mIoU'", "M_J"]),
        ("model.head.dropout=7", ["model: dropout probability has to be between 0 and 1, but got 7"]),
        ("train_dataloader.timeout=-1", ["train_dataloader: timeout"]),
        ("optim_wrapper.optimizer.betas=[0.9, 1.5]", ["optim_wrapper: Invalid beta parameter", "1.5"]),
        ("default_hooks.logger.interval=0", ["default_hooks or custom_hooks: interval"]),
        ("val_dataloader.num_workers=-2", ["val_dataloader", "num_workers"]),
        ("load_from=nowhere.pth", ["nowhere.pth: no such checkpoint"]),
        ("load_from=https://example.org/x.pth", ["download"]),
    ],
)
def test_values_that_only_show_when_built(tmp_path, option, words):
    fails(words, train, config(tmp_path), tmp_path / "w", option)


def test_the_work_dir_cannot_be_made(tmp_path):
    (tmp_path / "w").write_text("a file")
    fails(["work_dir", str(tmp_path / "w")], train, config(tmp_path), tmp_path / "w")


def test_from_a_checkpoint_of_the_same_model(tmp_path, capfd):
    """MS3 starts from S4's weights: load_from."""
    path = config(tmp_path)
    s4 = train(path, tmp_path / "s4")
    still = ["optim_wrapper.optimizer.lr=0", "param_scheduler=null", "train_cfg.max_epochs=1"]
    start = f"load_from={tmp_path / 's4' / 'epoch_4.pth'}"
    ms3 = train(path, tmp_path / "ms3", start, *still)
    for name, value in s4["state_dict"].items():
        if "head" in name:
            assert torch.equal(ms3["state_dict"][name], value)
    assert ms3["meta"]["epoch"] == 1
    assert "WARNING" not in capfd.readouterr().out

    part = {k: v for k, v in s4["state_dict"].items() if k != "head.layers.2.bias"} | {"neck.weight": torch.ones(1)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in part.items()}}, tmp_path / "part.pth")
    options = [f"load_from={tmp_path / 'part.pth'}", *still]
    part_run = train(path, tmp_path / "p", *options)
    assert torch.equal(part_run["state_dict"]["head.layers.0.bias"], s4["state_dict"]["head.layers.0.bias"])
    out = capfd.readouterr().out
    missing = [line for line in out.splitlines() if "keep their initial values: head.layers.2.bias" in line]
    assert len(missing) == 1
    assert "WARNING" in missing[0]
    assert "1 tensors in it are not used: neck.weight" in out

    fails(["part.pth", "1 missing (head.layers.2.bias)"], evaluate, path, tmp_path / "part.pth")
    torch.save({"x": torch.ones(1)}, tmp_path / "other.pth")
    fails(["other.pth", "none of the model's", "'x'"], train, path, tmp_path / "o", f"load_from={tmp_path}/other.pth")
    fails(["epoch_4.pth", "norm.weight is (4,), the model's (6,)"], train, path, tmp_path / "q",
          start, "model.embed_dims=6")  # fmt: skip


def test_resume_under_another_optimizer(tmp_path):
    path = config(tmp_path)
    train(path, tmp_path / "w", "train_cfg.max_epochs=1")
    groups = "optim_wrapper.paramwise_cfg={custom_keys: {head: {lr_mult: 0.1}}}"
    said = ["epoch_1.pth: cannot be resumed with this config", "group"]
    fails(said, train, path, tmp_path / "w", groups, resume="auto")


def test_metrics_json(tmp_path, capfd):
    path = config(tmp_path)
    train(path, tmp_path / "w")
    checkpoint = tmp_path / "w" / "epoch_4.pth"
    capfd.readouterr()
    metrics = evaluate(path, checkpoint, work_dir=str(tmp_path / "t"))
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads((tmp_path / "t" / "metrics.json").read_text()) == metrics
    assert list(metrics) == ["audio", "clips", "frames", "frame", "avsbench", "foreground"]
    assert (metrics["audio"], metrics["clips"], metrics["frames"]) == ("real", TEST_SIZE, 5 * TEST_SIZE)
    assert list(metrics["frame"]) == ["M_J", "M_F"]
    assert list(metrics["avsbench"]) == ["M_J", "M_F", "batch_size"]
    assert f"{metrics['frame']['M_J']:.4f}" in out and f"{metrics['avsbench']['M_F']:.4f}" in out
    assert len(out.splitlines()) < 12
    assert not list((tmp_path / "t").glob("*.pth"))
    silent = evaluate(path, checkpoint, work_dir=str(tmp_path / "s"), audio="silence")
    assert silent["audio"] == "silence"
    assert silent["frame"] != metrics["frame"]
    # What the config says of the sound gives way to the command, or metrics.json would not tell the truth.
    quiet = ["test_dataloader.dataset.audio=silence"]
    assert evaluate(path, checkpoint, work_dir=str(tmp_path / "q"), options=quiet) == metrics
    fails("--audio: expected one of real", evaluate, path, checkpoint, audio="loud")
    fails(
        "nothing to test",
        evaluate,
        path,
        checkpoint,
        options=[f"test_{k}=null" for k in ("cfg", "dataloader", "evaluator")],
    )


def test_files_of_pretrained_parts_are_not_asked_for(tmp_path):
    from avsmamba.engine.evaluate import prepare_test

    cfg = load_config(config(tmp_path))
    cfg.model.backbone = {"type": "X", "checkpoint": "gone.pth", "parts": [{"checkpoint": "gone.pth"}]}
    prepare_test(cfg, "c.pth", "real", None, None)
    assert cfg.model.backbone.to_dict() == {"type": "X", "checkpoint": None, "parts": [{"checkpoint": None}]}
    assert cfg.load_from == "c.pth"
    assert cfg.train_dataloader is cfg.val_evaluator is None


def test_the_evaluator_must_be_one_that_knows_both_protocols():
    with pytest.raises(UserError, match="returns no 'avsbench/M_J'"):
        evaluate.__globals__["report"]({"clips": 1, "frames": 1, "M_J": 1, "M_F": 1}, "real")
