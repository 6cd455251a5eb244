"""TensorBoard's relatives: what Weights & Biases and MLflow get of a training, and how they may fail."""

import logging
import sqlite3
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from avsmamba.engine import backends
from avsmamba.engine.train import train
from avsmamba.utils import UserError
from tests.engine.standins import config
from tests.engine.test_runner import scalars

SHORT = {"train_cfg": {"by_epoch": True, "max_epochs": 2}, "default_hooks": {"logger": {"interval": 2}}}


def with_backend(tmp_path, kind, **options):
    backend = [{"type": "LocalVisBackend"}, {"type": kind, **options}]
    return config(tmp_path, visualizer={"type": "Visualizer", "vis_backends": backend}, **SHORT)


@pytest.mark.parametrize(("kind", "package"), [("WandbVisBackend", "wandb"), ("MLflowVisBackend", "mlflow")])
def test_a_missing_package_is_named_before_the_data_are_read(tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = with_backend(tmp_path, kind)
    options = ["train_dataloader.dataset.faulty=0"]
    with pytest.raises(UserError, match=rf"visualizer.vis_backends: {kind} needs .*: pip install {package} \("):
        train(path, work_dir=str(tmp_path / "w"), options=options)


@pytest.mark.skipif(find_spec("clearml") is not None, reason="clearml is installed")
def test_a_missing_package_of_any_other_backend(tmp_path):
    with pytest.raises(UserError, match='visualizer: .*"pip install clearml"'):
        train(with_backend(tmp_path, "ClearMLVisBackend"), work_dir=str(tmp_path / "w"))


def test_a_wrong_key_is_named(tmp_path):
    with pytest.raises(UserError, match="vis_backends.1.run_nam: MLflowVisBackend .* did you mean 'run_name'"):
        train(with_backend(tmp_path, "MLflowVisBackend", run_nam="x"), work_dir=str(tmp_path / "w"))


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb").teardown()  # it keeps the settings of the first run of a process
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    work_dir = tmp_path / "w"
    train(with_backend(tmp_path, "WandbVisBackend"), work_dir=str(work_dir))
    (file,) = work_dir.glob("*/vis_data/wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    for key in ("M_J", "loss", "iter", "avsmamba"):
        assert key.encode() in written
    for value in [*scalars(work_dir, "M_J"), *scalars(work_dir, "loss")]:
        assert repr(value).encode() in written


def test_wandb_without_a_key(tmp_path, monkeypatch):
    pytest.importorskip("wandb").teardown()  # it keeps the settings of the first run of a process
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="WandbVisBackend cannot start: No API key"):
        train(with_backend(tmp_path, "WandbVisBackend"), work_dir=str(tmp_path / "w"))


def test_mlflow_in_a_database(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    work_dir = tmp_path / "w"
    train(with_backend(tmp_path, "MLflowVisBackend"), work_dir=str(work_dir))
    base = sqlite3.connect(tmp_path / "mlflow.db")
    rows = dict(base.execute("select step, value from metrics where key = 'M_J'").fetchall())
    assert rows == dict(enumerate(scalars(work_dir, "M_J"), 1))
    assert base.execute("select count(*) from metrics where key = 'loss'").fetchone() == (4,)
    assert base.execute("select name, status from runs").fetchall() == [("epoch", "FINISHED")]
    assert base.execute("select name from experiments where experiment_id > 0").fetchall() == [("avsmamba",)]
    assert ("optim_wrapper.optimizer.lr", "0.01") in base.execute("select key, value from params").fetchall()


class Failing:
    """MLflow's module whose server is away at every second call."""

    def __init__(self):
        self.calls, self.written = 0, []

    def log_metrics(self, values, step):
        self.calls += 1
        if self.calls % 2:
            raise ConnectionError("no answer")
        self.written.append((values, step))


def test_a_server_that_fails_does_not_stop_the_training(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(backends, "print_log", lambda text, logger, level: lines.append((text, level)))
    backend = backends.MLflowVisBackend(str(tmp_path))
    backend._env_initialized, backend._mlflow = True, Failing()
    for step in range(4):
        backend.add_scalars({"class/child's voice/IoU": 0.5}, step)
    assert backend._mlflow.written == [({"class/child_s voice/IoU": 0.5}, step) for step in (1, 3)]
    assert lines == [("MLflowVisBackend: values were not written (no answer); training continues", logging.WARNING)]


def test_wandb_uploads_code_only_if_it_is_asked_for(tmp_path):
    calls = []
    run = SimpleNamespace(log_code=lambda name: calls.append(name))
    module = SimpleNamespace(config=SimpleNamespace(update=lambda *args, **kwargs: None), run=run)
    for name in (None, "source"):
        backend = backends.WandbVisBackend(str(tmp_path), log_code_name=name)
        backend._env_initialized, backend._wandb = True, module
        backend.add_config(SimpleNamespace(to_dict=dict))
    assert calls == ["source"]
