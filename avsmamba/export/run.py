"""Run an exported model from its file, without its config or checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsmamba.utils import UserError, one_line

METADATA = "avsmamba.json"
TEXTS = ("config", "avsmamba_version", "torch_version")  # strings; all other metadata of an ONNX file are JSON
Array = NDArray[Any]


class ExportedModel:
    """A model that `avsmamba export` wrote; the shapes of its inputs are checked.

    Args:
        path: an `.onnx` file (needs onnxruntime) or a `.pt2` file (needs torch). A `.pt2` file is a program: load only
            your own.
        threads: number of threads; default: the runtime's.

    Attributes:
        metadata: config, avsmamba_version, torch_version, num_frames, one_clip (whether B must be 1), size_divisor,
            least_size (pixels), class_names, mean and std (of RGB in [0, 255]; they are applied inside).

    Raises:
        UserError: if the file is missing, damaged or was not written by `avsmamba export`, or onnxruntime is missing.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        if self.path.suffix not in (".onnx", ".pt2"):
            raise UserError(f"{path}: expected an .onnx or a .pt2 file")
        try:
            self._run, self.metadata = (_open_onnx if self.path.suffix == ".onnx" else _open_pt2)(self.path, threads)
        except ImportError:
            raise UserError(f"{path}: onnxruntime is missing: pip install avsmamba[onnx]") from None
        except Exception as error:  # each runtime has its own errors for a damaged file
            raise UserError(f"{path}: damaged, or not written by avsmamba export ({one_line(error)})") from None

    def __call__(self, frames: Array, log_mel: Array) -> Array:
        """Run the model.

        Args:
            frames: `(B, T, 3, H, W)` uint8 RGB; H and W multiples of 32, at least 64 pixels.
            log_mel: `(B, T, 1, 96, 64)`.

        Returns:
            logits `(B, T, N_class, H, W)` float32.

        Raises:
            ValueError: if a dtype or shape is wrong.
        """
        num_frames, divisor, least = (self.metadata[k] for k in ("num_frames", "size_divisor", "least_size"))
        if frames.dtype != np.uint8:
            raise ValueError(f"frames: expected uint8 from 0 to 255, got {frames.dtype}")
        if frames.ndim != 5 or frames.shape[1:3] != (num_frames, 3):
            raise ValueError(f"frames: expected (B, {num_frames}, 3, H, W), got {frames.shape}")
        if self.metadata["one_clip"] and len(frames) != 1:
            raise ValueError(f"frames: this model takes one clip at a time, got {len(frames)}")
        if any(n % divisor or n < least for n in frames.shape[3:]):
            raise ValueError(
                f"frames: H and W must be multiples of {divisor}, at least {least}, got {frames.shape[3:]}"
            )
        expected = (len(frames), num_frames, 1, 96, 64)
        if log_mel.shape != expected:
            raise ValueError(f"log_mel: expected {expected} for these frames, got {log_mel.shape}")
        return self._run(np.ascontiguousarray(frames), np.ascontiguousarray(log_mel, dtype=np.float32))


def run_exported(path: str | Path, clips: Sequence[dict[str, Array]], threads: int | None = None) -> list[Array]:
    """Return the logits of each clip (`frames`, `log_mel`)."""
    model = ExportedModel(path, threads)
    return [model(clip["frames"], clip["log_mel"]) for clip in clips]


def _open_onnx(path: Path, threads: int | None) -> tuple[Any, dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    if "num_frames" not in found:
        raise ValueError("no num_frames in its metadata")
    metadata = {k: v if k in TEXTS else json.loads(v) for k, v in found.items()}
    return lambda frames, log_mel: session.run(None, {"frames": frames, "log_mel": log_mel})[0], metadata


def _open_pt2(path: Path, threads: int | None) -> tuple[Any, dict[str, Any]]:
    import torch

    import avsmamba.ops  # noqa: F401  # registers the operators that the program calls

    if threads is not None:
        torch.set_num_threads(threads)
    beside = {METADATA: ""}
    program = torch.export.load(path, extra_files=beside)
    metadata = json.loads(beside[METADATA])
    module = program.module()

    def run(frames: Array, log_mel: Array) -> Array:
        with torch.no_grad():
            return module(frames=torch.from_numpy(frames), log_mel=torch.from_numpy(log_mel)).numpy()

    return run, metadata
