"""Weights & Biases and MLflow: mmengine's backends with what a training on the versions of today needs.

Tried with wandb 0.31 and MLflow 3.17. A failure while values are written does not stop the training.
"""

import os
import re
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.visualization import MLflowVisBackend as MLflow
from mmengine.visualization import WandbVisBackend as Wandb

from avsmamba.registry import VISBACKENDS
from avsmamba.utils import UserError, one_line

_PROJECT = "avsmamba"
_DATABASE = "sqlite:///mlflow.db"
_NOT_IN_NAMES = re.compile(r"[^\w/.\-: ]", re.ASCII)


def _start(name: str, package: str, start: Callable[[], None]) -> None:
    try:
        start()
    except ImportError as error:
        missing = one_line(error.__context__ or error)
        raise UserError(
            f"visualizer.vis_backends: {name} needs the package {package}: pip install {package} ({missing})"
        ) from error
    except Exception as error:
        raise UserError(f"visualizer.vis_backends: {name} cannot start: {one_line(error)}") from error


class _KeepTraining:
    """Base of both backends: an error while values are written is logged once, and the next values are tried again."""

    failed = False

    def attempt(self, write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call `write`; its first error becomes a warning, later ones are dropped."""
        try:
            write(*args, **kwargs)
        except Exception as error:
            if not self.failed:
                words = f"{type(self).__name__}: values were not written ({one_line(error)}); training continues"
                print_log(words, "current", level=30)
            self.failed = True


@VISBACKENDS.register_module()
class WandbVisBackend(_KeepTraining, Wandb):
    """mmengine's backend, run by run named as the config, with curves over the iteration.

    mmengine uploads every Python file below the current folder at each start; here only if `log_code_name` is set.
    `WANDB_MODE=offline` in the environment writes to the work dir only; `wandb sync FOLDER` uploads it later.
    """

    # mmengine assigns these without a type.
    _init_kwargs: Any
    _define_metric_cfg: Any

    def set_run_name(self, name: str) -> None:
        """Set the run's name and project, where `init_kwargs` does not."""
        self._init_kwargs = {"project": _PROJECT, "name": name, **(self._init_kwargs or {})}
        if self._define_metric_cfg is None:
            self._define_metric_cfg = [{"name": "*", "step_metric": "iter"}]

    def _init_env(self) -> None:
        _start("WandbVisBackend", "wandb", super()._init_env)

    def add_config(self, config: Config, **kwargs: Any) -> None:
        run = self.experiment
        run.config.update(config.to_dict(), allow_val_change=True)
        if self._log_code_name is not None:
            run.run.log_code(name=self._log_code_name)

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        self.attempt(super().add_scalars, *args, **kwargs)


@VISBACKENDS.register_module()
class MLflowVisBackend(_KeepTraining, MLflow):
    """mmengine's backend, with a database where it writes files, which MLflow refuses since version 3.

    Without `tracking_uri` it is `MLFLOW_TRACKING_URI` of the environment, else `mlflow.db` in the current folder, where
    `mlflow ui` finds it. Characters that MLflow refuses in names are replaced by `_`.
    """

    _run_name: Any
    _exp_name: Any
    _tracking_uri: Any

    def set_run_name(self, name: str) -> None:
        """Set the run's name, the experiment and the database, where the config does not."""
        self._run_name = self._run_name or name
        self._exp_name = self._exp_name or _PROJECT
        self._tracking_uri = self._tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _DATABASE

    def _init_env(self) -> None:
        _start("MLflowVisBackend", "mlflow", super()._init_env)

    def add_scalars(self, scalar_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self.attempt(super().add_scalars, _allowed(scalar_dict), *args, **kwargs)

    def close(self) -> None:
        self.attempt(super().close)

    def _flatten(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return _allowed(super()._flatten(*args, **kwargs))


def _allowed(values: dict[str, Any]) -> dict[str, Any]:
    return {_NOT_IN_NAMES.sub("_", key): value for key, value in values.items()}
