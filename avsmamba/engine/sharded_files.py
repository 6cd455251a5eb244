"""Checkpoints as folders that all processes write and read together: torch.distributed.checkpoint (DCP)."""

import io
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from mmengine.dist import barrier, is_main_process
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from avsmamba.engine.sharding import parameters_of
from avsmamba.utils import UserError, one_line

ENDING = ".dcp"
_REST = "rest"  # everything but weights and the optimizer's state, a file of torch.save


def write_sharded(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint as a folder, in every process; the folder appears with its name when it is complete.

    Raises:
        OSError: if it cannot be written.
    """
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    if is_main_process():
        for left in (new, old):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
    barrier()
    tensors = {"state_dict": checkpoint["state_dict"], "meta": checkpoint["meta"]}
    rest = {k: v for k, v in checkpoint.items() if k != "state_dict"}
    if "optimizer" in checkpoint:
        rest["optimizer"] = {k: v for k, v in checkpoint["optimizer"].items() if k != "state"}
        tensors["optimizer"] = {"state": checkpoint["optimizer"]["state"]}
    if is_main_process():
        buffer = io.BytesIO()
        torch.save(rest, buffer)
        tensors[_REST] = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    try:
        with _quiet():
            dcp.save(tensors, checkpoint_id=new, no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise OSError(one_line(next(iter(error.failures.values()))[0])) from error
    if is_main_process():
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(old, ignore_errors=True)
    barrier()


def read_sharded(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Read a folder of `write_sharded`, each process its part of what is divided, with any number of processes.

    Args:
        path: the folder.
        model: not wrapped; its parameters and those of `optimizer` determine which part is read.
        optimizer: None: its state is not read.

    Raises:
        UserError: if the folder is not complete.
    """
    metadata = check_sharded(path)
    weights, parameters = model.state_dict(), [] if optimizer is None else parameters_of(optimizer)
    flat: dict[str, Any] = {}
    for name, entry in metadata.state_dict_metadata.items():
        kind, _, key = name.partition(".")
        number, _, inner = key.removeprefix("state.").partition(".")
        like = weights.get(key) if kind == "state_dict" else None
        if kind == "optimizer":
            if int(number) >= len(parameters):
                continue
            like = parameters[int(number)]
        if isinstance(entry, TensorStorageMetadata) and kind != "meta":
            dtype = entry.properties.dtype
            fits = like is not None and like.shape == entry.size
            flat[name] = torch.empty_like(like, dtype=dtype) if fits else torch.empty(entry.size, dtype=dtype)
    with _quiet():
        dcp.load(flat, checkpoint_id=path, no_dist=not dist.is_initialized())
    checkpoint = torch.load(io.BytesIO(flat.pop(_REST).numpy().tobytes()), weights_only=True)
    checkpoint["state_dict"] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        if name.startswith("state_dict."):
            checkpoint["state_dict"][name.removeprefix("state_dict.")] = value
        else:
            number, _, inner = name.removeprefix("optimizer.state.").partition(".")
            states.setdefault(int(number), {})[inner] = value
    if "optimizer" in checkpoint:
        checkpoint["optimizer"]["state"] = states
    return checkpoint


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def check_sharded(path: Path) -> Metadata:
    """Return the table of a folder's tensors.

    Raises:
        UserError: if there is none, or a file is missing or too short.
    """
    try:
        metadata = dcp.FileSystemReader(path).read_metadata()
        sizes: dict[str, int] = {}
        for place in (metadata.storage_data or {}).values():
            sizes[place.relative_path] = max(sizes.get(place.relative_path, 0), place.offset + place.length)
        short = [name for name, size in sizes.items() if (path / name).stat().st_size < size]
    except (OSError, EOFError, AttributeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged, or not a sharded checkpoint ({one_line(error)})") from None
    if short or _REST not in metadata.state_dict_metadata:
        raise UserError(f"{path}: damaged: {short[0] if short else _REST} is cut short or missing")
    return metadata
