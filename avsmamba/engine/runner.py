"""mmengine's Runner with short logs, checked configs, exact resume and errors that name the config's key."""

import os
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from avsmamba.checkpoint.load import load_weights
from avsmamba.checkpoint.reading import read_file
from avsmamba.checkpoint.released import READING
from avsmamba.config import yaml_io
from avsmamba.config.check import check_config
from avsmamba.config.variants import config_name, split_name
from avsmamba.engine.distributed import unwrapped
from avsmamba.engine.log import ShortFormat, is_wanted
from avsmamba.engine.seeding import seeded_parts, with_functions
from avsmamba.engine.sharded_files import ENDING, read_sharded, write_sharded
from avsmamba.engine.sharding import average_buffers, check_sharding, distributed_states, gathered, is_sharded
from avsmamba.engine.work_dir import environment, find_latest
from avsmamba.engine.workers import check_sockets, reporting_dead_workers, stop_workers
from avsmamba.registry import SCOPE
from avsmamba.utils import UserError, atomic_write, one_line

_STOCK_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
_BUILD_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    OSError,
    ImportError,
)


def skip_conventions(evaluator: Any) -> None:
    """Score only under the protocols frame and avsbench, unless the config of a metric says more."""
    metrics = evaluator.get("metrics", evaluator) if isinstance(evaluator, dict) else evaluator
    for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
        if isinstance(metric, dict) and metric.get("type") in ("AVSMetric", "AVSSMetric"):
            metric.setdefault("conventions", False)


def fill_from_train_loop(cfg: Config) -> None:
    """Set defaults of a config that depend on its other keys.

    Checkpoints and scores are counted in epochs or iterations, as the training is; by default a checkpoint is written
    before each validation. Keys of a dataloader that need workers are removed if there are none. By default a
    validation scores only under the protocols frame and avsbench (the metric's `conventions: false`).
    """
    skip_conventions(cfg.get("val_evaluator"))
    # mmengine accepts null only for its own default hooks.
    hooks = cfg.get("default_hooks") or {}
    for name in [n for n, hook in hooks.items() if hook is None and n not in _STOCK_HOOKS]:
        del hooks[name]
    loop = cfg.get("train_cfg")
    if loop:
        by_epoch = loop.get("by_epoch", loop.get("type") == "EpochBasedTrainLoop")
        hooks = cfg.setdefault("default_hooks", {})
        checkpoint = hooks.setdefault("checkpoint", {"type": "CheckpointHook"})
        if checkpoint is not None:
            checkpoint.setdefault("by_epoch", by_epoch)
            if checkpoint.pop("sharded", False):
                checkpoint.setdefault("filename_tmpl", ("epoch_{}" if checkpoint["by_epoch"] else "iter_{}") + ENDING)
            checkpoint.setdefault("interval", loop.get("val_interval", 1 if by_epoch else 1000))
        logger = hooks.setdefault("logger", {"type": "LoggerHook"})
        if logger is not None:
            logger.setdefault("log_metric_by_epoch", by_epoch)
        cfg.setdefault("log_processor", {"type": "ShortLog"}).setdefault("by_epoch", by_epoch)
        schedulers = cfg.get("param_scheduler")
        if isinstance(schedulers, (list, tuple)) and not by_epoch:
            # mmengine refuses a scheduler that begins after the last iteration, as in a run that was shortened.
            last = loop.get("max_iters", 0)
            cfg.param_scheduler = [s for s in schedulers if s.get("by_epoch", True) or s.get("begin", 0) < last]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(key)
        if not loader:
            continue
        # torch warns of more workers than cores, which are no faster; random numbers do not depend on the workers.
        if isinstance(loader.get("num_workers"), int):
            loader["num_workers"] = min(loader["num_workers"], max(1, cores))
        if not loader.get("num_workers"):
            loader.pop("persistent_workers", None)
            loader.pop("prefetch_factor", None)
        if not torch.cuda.is_available():
            loader.pop("pin_memory", None)


class YamlConfig(Config):
    """A Config whose text, in checkpoints and logs, is YAML; mmengine's Python takes seconds to format at each save."""

    @property
    def pretty_text(self) -> str:
        """Return the config as YAML."""
        return yaml_io.dump(self.to_dict())


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Convert an error of a constructor to a UserError that names the place in the config."""
    try:
        yield
    except _BUILD_ERRORS as error:
        if os.environ.get("AVSMAMBA_TRACEBACK"):
            raise
        raise UserError(f"{place}: {one_line(error)}") from error


class AVSRunner(Runner):
    """Runner of trainings and tests, built by `AVSRunner.from_cfg(cfg)`."""

    # mmengine assigns these without a type.
    _train_dataloader: Any
    _load_from: Any
    _resume: Any
    _has_loaded: bool

    @classmethod
    def from_cfg(cls, cfg: Config) -> "AVSRunner":
        """Check a config and build the runner.

        Raises:
            UserError: if the config is faulty; names the key.
        """
        cfg = YamlConfig(cfg.to_dict(), cfg_text=cfg.text, filename=cfg.filename)
        check_config(cfg)
        check_sharding(cfg)
        check_sockets(cfg)
        with _naming("work_dir"):
            Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
        fill_from_train_loop(cfg)
        # Two runs of one process in the same second would otherwise share their log, scores and writers.
        stem = config_name(cfg.filename) if cfg.filename else "run"
        cfg.experiment_name = f"{cfg.get('experiment_name') or stem}_{uuid.uuid4().hex[:8]}"
        cfg.setdefault("default_scope", SCOPE)
        return super().from_cfg(cfg)

    # Logs

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            handler.setFormatter(ShortFormat())
            handler.addFilter(is_wanted)
        return logger

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        # Does not apply: gradients are accumulated over iterations, and the schedule counts iterations.
        warnings.filterwarnings("ignore", message="Detected call of `(lr_)?scheduler.step")
        info = environment(self.seed)
        self.logger.info(
            f"{self.experiment_name} | avsmamba {info['avsmamba']}, torch {info['torch']} | {info['device']} "
            f"| processes {info['processes']}, threads {info['threads']} | seed {self.seed}"
        )
        if is_main_process():
            with atomic_write(self._record_dir() / "env.json") as path:
                mmengine.dump(info, str(path), indent=2)

    def get_hooks_info(self) -> str:
        """Return an empty string: mmengine would log a table of 100 lines."""
        return ""

    def dump_config(self) -> None:
        """Write the resolved config: of a training into the work dir, of a test beside its log."""
        if is_main_process():
            file = Path(self.cfg.filename or "config.yaml")
            stem, ending = config_name(file), split_name(file)[0].suffix
            values = self.cfg.to_dict()
            name = values.pop("experiment_name", "").rpartition("_")[0]
            if name not in ("", "run", stem):
                values["experiment_name"] = name
            target = self._record_dir() / f"{stem}{ending}"
            if target.resolve() == file.resolve():  # the work dir contains the config itself
                target = target.with_name(f"{stem}.resolved{ending}")
            with atomic_write(target) as path:
                path.write_text(yaml_io.dump(values), encoding="utf-8")

    def _record_dir(self) -> Path:
        return Path(self.log_dir if self._train_loop is None else self.work_dir)

    def train(self) -> nn.Module:
        """Train, then stop the data workers.

        Raises:
            UserError: if a data worker died.
        """
        try:
            with reporting_dead_workers():
                return super().train()
        finally:
            stop_workers(self._train_loop)
            stop_workers(self._val_loop)

    # Building, with errors that name the place in the config

    setup_env = _naming("env_cfg")(Runner.setup_env)
    register_hooks = _naming("default_hooks or custom_hooks")(Runner.register_hooks)
    build_val_loop = _naming("val_dataloader, val_evaluator or val_cfg")(Runner.build_val_loop)
    build_test_loop = _naming("test_dataloader, test_evaluator or test_cfg")(Runner.build_test_loop)
    build_optim_wrapper = _naming("optim_wrapper")(Runner.build_optim_wrapper)
    build_param_scheduler = _naming("param_scheduler")(Runner.build_param_scheduler)

    def build_model(self, model: Any) -> nn.Module:
        with _naming("model"):
            built = super().build_model(model)
        count = sum(p.numel() for p in built.parameters())
        trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
        self.logger.info(
            f"{type(built).__name__}: {count / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained"
        )
        return built

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Build mmengine's visualizer and start its backends, so that a missing package is reported at once."""
        with _naming("visualizer"):
            built = super().build_visualizer(visualizer)
            for backend in built._vis_backends.values() if is_main_process() else ():
                if hasattr(backend, "set_run_name"):
                    backend.set_run_name(self.experiment_name.rsplit("_", 3)[0])
                backend.experiment  # noqa: B018
        return built

    def build_train_loop(self, loop: Any) -> Any:
        if isinstance(self._train_dataloader, dict):
            # The same for all ranks, whose samplers split one order.
            seed = self.seed - (self.rank if self._randomness_cfg.get("diff_rank_seed") else 0)
            with _naming("train_dataloader"):
                config = seeded_parts(self._train_dataloader, seed)
                self._train_dataloader = self.build_dataloader(config, seed=seed)
        with _naming("train_cfg"):
            return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
        """Build mmengine's dataloader; functions are also found in avsmamba's registry."""
        if isinstance(dataloader, Mapping):
            dataloader = with_functions(dict(dataloader))
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    # Checkpoints

    def _init_model_weights(self) -> None:
        if is_sharded(self.model):  # mmengine would broadcast each parameter, as if all processes had the same
            unwrapped(self.model).init_weights()
        else:
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        if self._resume and self._load_from is None and not self._has_loaded:
            latest = find_latest(self.work_dir)
            if latest is None:
                self.logger.warning(f"Nothing to resume in {self.work_dir}: training starts from the beginning")
                self._resume = False
            else:
                self._load_from = str(latest)
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        with _naming(f"{filename}: cannot be resumed with this config"):
            super().resume(filename, *args, **kwargs)
        loop = self.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and loop.iter != loop.epoch * len(loop.dataloader):
            self.logger.warning(
                f"{filename} is of iteration {loop.iter}, which is not the end of epoch {loop.epoch} with this config: "
                "training continues with a whole epoch and ends at another iteration"
            )
        if loop.iter >= loop.max_iters:
            self.logger.info(f"{filename} is of the last iteration: there is nothing left to train")

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Load a checkpoint's weights into the model.

        Raises:
            UserError: if its shapes are not the model's; for a test or `--resume` also if weights are missing.
        """
        wrapper = self.optim_wrapper if self._resume else None
        optimizer = wrapper.optimizer if isinstance(wrapper, OptimWrapper) else None
        if Path(filename).is_dir():
            checkpoint = read_sharded(Path(filename), unwrapped(self.model), optimizer)
        else:
            checkpoint = read_file(filename, map_location)
        if not isinstance(checkpoint, dict):
            raise UserError(f"{filename}: expected a checkpoint, got a {type(checkpoint).__name__}")
        if self._resume and not {"optimizer", "meta", "message_hub"} <= checkpoint.keys():
            raise UserError(
                f"{filename}: has no optimizer state (a best_*.pth?), so training cannot be resumed from it; resume "
                "from an epoch_*.pth or iter_*.pth, or start from its weights by --cfg-options load_from=FILE"
            )
        if optimizer is not None:
            states = checkpoint["optimizer"]
            states["state"] = distributed_states(states["state"], optimizer)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        exact = strict or self._resume or self._train_loop is None
        load_weights(unwrapped(self.model), checkpoint, filename, exact, self.logger.warning)
        self._has_loaded = True
        self.logger.info(f"{'Resumed from' if self._resume else 'Weights of'} {filename}")
        return checkpoint

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        """Save a checkpoint; if a process is killed meanwhile, the previous one stays complete.

        Every process has to call it. A name that ends in `.dcp` becomes a folder that all processes write together,
        any other one file, of the first process.

        Args:
            out_dir: folder.
            filename: in the folder.
            file_client_args: not used.
            save_optimizer: whether the optimizer's state is in it.
            save_param_scheduler: whether the schedulers' states are in it.
            meta: with `epoch` and `iter`, by default those after the present epoch or iteration.
            by_epoch: whether an epoch ends here, not an iteration.
            backend_args: not used.

        Raises:
            UserError: if the file cannot be written, as on a full disk.
        """
        average_buffers(self.model)
        path = Path(out_dir) / filename
        as_folder = path.suffix == ENDING
        if not (is_main_process() or as_folder or is_sharded(self.model)):
            return
        steps = {"epoch": self.epoch + by_epoch, "iter": self.iter + (not by_epoch)}
        checkpoint = self._checkpoint({**steps, **(meta or {})}, save_optimizer, save_param_scheduler)
        if not as_folder:
            checkpoint = gathered(checkpoint)
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        try:
            if as_folder:
                write_sharded(path, checkpoint)
            elif is_main_process():
                with atomic_write(path) as temporary, open(temporary, "wb") as file:
                    torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            raise UserError(
                f"{path}: cannot be written ({one_line(error)}); the checkpoints before it are complete: continue with "
                "--resume when there is space"
            ) from error

    def _checkpoint(self, meta: dict[str, Any], save_optimizer: bool, save_param_scheduler: bool) -> dict[str, Any]:
        """Return the content of a checkpoint, its tensors where and as divided as they are."""
        model = unwrapped(self.model)
        meta |= {
            "cfg": self.cfg.pretty_text,
            "seed": self.seed,
            "experiment_name": self.experiment_name,
            "time": time.strftime("%Y%m%d_%H%M%S"),
            "mmengine_version": mmengine.__version__,
        }
        if hasattr(model, READING):
            meta[READING] = getattr(model, READING)
        if hasattr(self.train_dataloader.dataset, "metainfo"):
            meta["dataset_meta"] = self.train_dataloader.dataset.metainfo
        checkpoint = {"meta": meta, "state_dict": model.state_dict(), "message_hub": self.message_hub.state_dict()}
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in self.param_schedulers]
        return checkpoint
