"""Arguments of mappings in a config that are no registered classes: mmengine's Runner reads them itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from avsmamba.config.arguments import Argument, arguments
from avsmamba.limits import AT_LEAST_0, AT_LEAST_1, Limit

_SWITCH, _MAPPING, _ANY = Argument(bool), Argument(dict), Argument()
_FACTOR = Argument(float, limit=AT_LEAST_0)
_FACTORS = ("bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult", "dcn_offset_lr_mult")
_LEVELS = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
_METHODS = Literal["fork", "spawn", "forkserver"]


def of(function: Callable[..., Any], *without: str) -> dict[str, Argument]:
    """Return the arguments of a function or class but those that its caller adds."""
    return {name: argument for name, argument in arguments(function)[0].items() if name not in without}


TOP_LEVEL = of(Runner) | {"log_level": Argument(_LEVELS)}
# Keys of the top level that the Runner cannot do without, once they are written.
NOT_NULL = {"env_cfg", "randomness", "default_hooks", "log_processor", "log_level", "default_scope"}
LOADER = of(DataLoader) | dict.fromkeys(("dataset", "sampler", "batch_sampler", "worker_init_fn", "collate_fn"), _ANY)
LOADER["batch_size"] = Argument(int, limit=AT_LEAST_1)
TRAIN_LOOP = {"by_epoch": _SWITCH}
PARAMWISE = dict.fromkeys((*_FACTORS, "flat_decay_mult"), _FACTOR)
PARAMWISE |= {"custom_keys": Argument(dict | None), "bypass_duplicate": _SWITCH}
CUSTOM_KEY = {"lr_mult": _FACTOR, "decay_mult": _FACTOR}
ENVIRONMENT = {"cudnn_benchmark": _SWITCH, "mp_cfg": _MAPPING, "dist_cfg": _MAPPING, "resource_limit": Argument(int)}
PROCESSES = of(set_multi_processing, "distributed") | {"mp_start_method": Argument(_METHODS)}
RANDOMNESS = of(Runner.set_randomness)
RANDOMNESS["seed"] = Argument(int | None, limit=Limit("0 to 2**32 - 1", lambda x: 0 <= x < 2**32))
AUTO_SCALE = {"enable": _SWITCH, "base_batch_size": Argument(int, limit=AT_LEAST_1)}
COMPILE = of(torch.compile, "model")
CLIP_GRAD = {
    "norm": of(torch.nn.utils.clip_grad_norm_, "parameters") | {"type": Argument(str)},
    "value": of(torch.nn.utils.clip_grad_value_, "parameters") | {"type": Argument(str)},
}
# EMAHook hands its `**kwargs` to the averaged model when the run begins.
AVERAGE = of(ExponentialMovingAverage, "model", "device")
AVERAGE["momentum"] = replace(AVERAGE["momentum"], limit=Limit("a number between 0 and 1", lambda x: 0 < x < 1))
