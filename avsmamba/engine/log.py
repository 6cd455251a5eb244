"""Short log lines in place of mmengine's."""

import datetime
import logging
from typing import Any

import torch
from mmengine.runner import BaseLoop, LogProcessor, Runner

from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, limits
from avsmamba.registry import LOG_PROCESSORS

_NOT_LOSSES = ("loss", "lr", "time", "data_time", "epoch", "iter", "memory", "base_lr")


@LOG_PROCESSORS.register_module()
class ShortLog(LogProcessor):
    """`epoch 3/60 it 20/1726 loss 0.4123 lr 2.00e-05 0.412 s/it data 3% eta 1:02:03`.

    Loss and times are means over the last `window_size` iterations; `data` is the share of the time spent waiting for
    data.

    Args:
        window_size: iterations to average over.
        by_epoch: whether the training counts epochs; default: as in `train_cfg`.
        num_digits: digits of a loss or score.
    """

    @limits(window_size=AT_LEAST_1, num_digits=AT_LEAST_0)
    def __init__(self, window_size: int = 10, by_epoch: bool = True, num_digits: int = 4):
        super().__init__(window_size=window_size, by_epoch=by_epoch, num_digits=num_digits)

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """Return the values for the log's backends and the line, after an iteration of `mode` train, val or test."""
        tag, _ = super().get_log_after_iter(runner, batch_idx, mode)
        words = [self._place(runner, batch_idx, mode)]
        if mode == "train":
            losses = {k: v for k, v in tag.items() if k not in _NOT_LOSSES and not k.endswith("lr")}
            shown = {"loss": tag["loss"]} if "loss" in tag else {}
            # A single loss equals the sum.
            shown |= losses if len([k for k in losses if "loss" in k]) > 1 else _without_losses(losses)
            words += [f"{name} {value:.{self.num_digits}f}" for name, value in shown.items()]
            words += [f"lr {tag['lr']:.2e}"] if "lr" in tag else []
        if "time" in tag:
            seconds, waiting = _seconds(tag, "time"), _seconds(tag, "data_time")
            words.append(f"{seconds:.3f} s/it data {100 * min(1, waiting / max(seconds, 1e-9)):.0f}%")
        eta = runner.message_hub.runtime_info.get("eta")
        if eta is not None:
            words.append(f"eta {datetime.timedelta(seconds=max(0, int(eta)))}")
        if torch.cuda.is_available():
            words.append(f"mem {tag.get('memory', 0)} MB")
        return tag, " ".join(words)

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Return the values for the log's backends and the line with the scores, after a validation or a test."""
        tag, _ = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        shown = {k: v for k, v in tag.items() if not k.startswith("conventions/")}
        scores = [f"{k} {v:.{self.num_digits}f}" for k, v in shown.items() if "M_" in k or "loss" in k]
        return tag, " ".join([mode, *scores, f"({_seconds(tag, 'time'):.3f} s/it)"])

    def _place(self, runner: Runner, batch_idx: int, mode: str) -> str:
        if mode != "train":
            return f"{mode} {batch_idx + 1}/{self._get_dataloader_size(runner, mode)}"
        if not self.by_epoch or not isinstance(runner._train_loop, BaseLoop):
            return f"it {runner.iter + 1}/{runner.max_iters}"
        return f"epoch {runner.epoch + 1}/{runner.max_epochs} it {batch_idx + 1}/{len(runner.train_dataloader)}"


def _seconds(tag: dict[str, Any], name: str) -> float:
    """Return a mean duration, not negative: the system's clock may be set back in between."""
    return max(0.0, tag.get(name, 0.0))


def _without_losses(values: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in values.items() if "loss" not in k}


class ShortFormat(logging.Formatter):
    """`14:03:20 message`; warnings and errors with the level's name."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname}: "
        return f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"


# Messages of mmengine on every start or save, and warnings that do not apply here.
_DROPPED = (
    '"FileClient" will',
    '"HardDiskBackend" is',
    "Distributed training is not used",
    "Exp name:",
    "Hooks will be executed",
    "Checkpoints will be saved",
    "The prefix is not set in metric class",
    "Advance dataloader",
    "Resumed iteration number is not divisible by",
    "The previous best checkpoint",
    "Saving checkpoint at",
    "Failed to search registry with scope",
    "`save_param_scheduler` is True but",
    "`resume_param_scheduler` is True but",
)


def is_wanted(record: logging.LogRecord) -> bool:
    """Return whether a record is written to the run's log."""
    message = record.getMessage()
    return not message.startswith(_DROPPED) and "has no metainfo" not in message
