"""Write a trained model as one file for other programs: `avsmamba export`."""

import importlib.util
import io
import json
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avsmamba.choices import EXPORT_FORMATS
from avsmamba.export.run import METADATA, TEXTS, run_exported
from avsmamba.model_zoo.load import load_trained
from avsmamba.models.batch import resize
from avsmamba.utils import UserError, atomic_write, one_line
from avsmamba.version import __version__

OPSET = 18
DIVISOR = 32  # of H and W
LEAST = 64  # pixels of H and W: with one row or column in the coarsest map, shapes are not variable
TOLERANCE = 1e-4
# (H, W) of a check, the second with two clips if the batch is variable; none is that of the trace.
CHECKED = ((96, 96), (64, 128), (160, 96))
TRACED = (96, 64)
PARTS = ("backbone", "audio_encoder", "stage_fusion", "projection", "encoder", "decoder", "pyramid", "head")
Clip = dict[str, NDArray[Any]]


class WholeModel(nn.Module):
    """The model with normalisation before and resizing of the logits to the frames' size after it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, log_mel: Tensor) -> Tensor:
        """Run the model.

        Args:
            frames: `(B, T, 3, H, W)` uint8 RGB, H and W multiples of 32.
            log_mel: `(B, T, 1, 96, 64)`, see `avsmamba.datasets.log_mel`.

        Returns:
            logits `(B, T, N_class, H, W)`.
        """
        normal = self.model.data_preprocessor
        return resize(self.model((frames.float() - normal.mean) / normal.std, log_mel), frames.shape[-2:])


def export(
    config: str | Path,
    checkpoint: str | Path | None,
    out: str | Path,
    format: str = "onnx",
    num_frames: int | None = None,
    check: bool = False,
    options: Sequence[str] = (),
) -> None:
    """Write a trained model as one file. H and W (multiples of 32, at least 64) and the batch are variable, T is fixed.

    A model whose code supports only one clip at a time is exported for a batch of one (`one_clip` in the metadata).

    Args:
        config: YAML file, or the name of a shipped model.
        checkpoint: file with all of the model's weights; None for a shipped model.
        out: file to write; ends in `.onnx` or `.pt2`.
        format: 'onnx', or 'torch-export' (`torch.export.save`; requires avsmamba to run).
        num_frames: T; default: that of the config's clips.
        check: run the file on three sizes and compare it with the model; it is renamed to `out` only if they agree.
        options: `key=value` strings that override the config.

    Raises:
        UserError: if something is missing or faulty, the model cannot be exported (names the part), or the check finds
            a deviation above 1e-4 (of the greatest logit, where that is above 1).
    """
    out = Path(out)
    if format not in EXPORT_FORMATS:
        raise UserError(f"--format: expected one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
    if out.suffix != EXPORT_FORMATS[format]:
        raise UserError(f"--out: expected a name ending in {EXPORT_FORMATS[format]} for {format}, got {out.name!r}")
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder")
    if num_frames is not None and num_frames < 1:
        raise UserError(f"--num-frames: expected at least 1, got {num_frames}")
    if format == "onnx":
        require_onnx()
    trained = load_trained(config, checkpoint, "cpu", options)
    frames = num_frames or trained.num_frames
    whole = WholeModel(trained.model).eval()
    with quiet():
        program = trace(whole, frames, str(config))
        about = metadata(trained.model, trained.classes, config, frames, one_clip(program))
        with atomic_write(out) as temporary:
            if format == "onnx":
                write_onnx(program, temporary, about, str(config))
            else:
                torch.export.save(program, temporary, extra_files={METADATA: json.dumps(about, indent=1)})
            if check:
                worst = compare(whole, temporary, frames, 1 if about["one_clip"] else 2)
                if not worst <= TOLERANCE:
                    raise UserError(
                        f"{out}: not written: deviates from the model by {worst:.2g}, expected at most {TOLERANCE:g}"
                    )
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {frames} frames a clip" + (", checked" if check else ""))


def require_onnx() -> None:
    """Raise a UserError with the installation command unless ONNX's packages are installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: {', '.join(missing)} missing: pip install avsmamba[onnx]")


def metadata(model: Any, classes: Sequence[str], config: str | Path, num_frames: int, one_clip: bool) -> dict[str, Any]:
    """Return the metadata of the file."""
    normal = model.data_preprocessor
    return {
        "config": Path(config).name,
        "avsmamba_version": __version__,
        "torch_version": torch.__version__,
        "num_frames": num_frames,
        "one_clip": one_clip,
        "size_divisor": DIVISOR,
        "least_size": LEAST,
        "class_names": list(classes),
        "mean": normal.mean.flatten().tolist(),
        "std": normal.std.flatten().tolist(),
    }


def example(shape: tuple[int, int, int], num_frames: int, seed: int = 0) -> Clip:
    """Return inputs of noise for a shape (B, H, W)."""
    random = np.random.default_rng(seed)
    batch, height, width = shape
    return {
        "frames": random.integers(0, 256, (batch, num_frames, 3, height, width), dtype=np.uint8),
        "log_mel": random.normal(-2, 2, (batch, num_frames, 1, 96, 64)).astype(np.float32),
    }


def trace(whole: nn.Module, num_frames: int, config: str) -> Any:
    """Trace a `torch.export.ExportedProgram`; for one clip at a time if the model's code supports no other batch.

    Raises:
        UserError: if it cannot be traced; names the part.
    """
    try:
        try:
            return _trace(whole, num_frames, free_batch=True)
        except torch._dynamo.exc.UserError as error:
            if "Constraints violated (batch)" not in str(error):
                raise
            return _trace(whole, num_frames, free_batch=False)
    except Exception as error:  # any, from a part's code with symbolic sizes
        part, reason = failing_part(error, whole.model), f"{type(error).__name__}: {one_line(error)}"
        if "Constraints violated" in reason:  # raised at the end, when no part is running
            part = f"model.backbone ({type(whole.model.backbone).__name__}) or a later part"
            reason = f"its code supports only one size of frames ({reason})"
        raise UserError(f"{config}: {part} cannot be exported: {reason}") from error


def _trace(whole: nn.Module, num_frames: int, free_batch: bool) -> Any:
    height, width = (torch.export.Dim(name, min=LEAST // DIVISOR) for name in ("height", "width"))
    batch = {0: torch.export.Dim("batch", min=1)} if free_batch else {}
    shapes = {"frames": batch | {3: DIVISOR * height, 4: DIVISOR * width}, "log_mel": batch}
    clip = example((2 if free_batch else 1, *TRACED), num_frames)
    # A trace that fails prints its graph of hundreds of lines.
    with torch.no_grad(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return torch.export.export(
            whole, (), {name: torch.from_numpy(value) for name, value in clip.items()}, dynamic_shapes=shapes
        )


def one_clip(program: Any) -> bool:
    """Return whether a program takes only one clip at a time."""
    frames = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == "frames")
    return isinstance(frames.meta["val"].shape[0], int)


def write_onnx(program: Any, path: Path, about: dict[str, Any], config: str) -> None:
    """Translate a program to ONNX and write it.

    Raises:
        UserError: if an operator has no translation; names it and its part.
    """
    import onnx_ir as ir

    from avsmamba.export.onnx_operators import translations

    try:
        result: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            output_names=["logits"],
            verbose=False,
        )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        part = part_of_operator(str(cause), program) or "the model"
        reason = f"{type(cause).__name__}: {one_line(cause)}"
        raise UserError(f"{config}: {part} cannot be written as ONNX: {reason}") from error
    model = result.model
    for value, axes in ((model.graph.inputs[0], (3, 4)), (model.graph.outputs[0], (3, 4)), (model.graph.inputs[1], ())):
        shape = list(value.shape)
        if not about["one_clip"]:
            shape[0] = "batch"
        for axis, name in zip(axes, ("height", "width"), strict=False):
            shape[axis] = name
        value.shape = ir.Shape(shape)
    model.producer_name, model.producer_version = "avsmamba", __version__
    model.metadata_props.update({k: v if k in TEXTS else json.dumps(v) for k, v in about.items()})
    result.save(path, external_data=False)


def compare(whole: nn.Module, path: Path, num_frames: int, most: int) -> float:
    """Run a file in another process, print its deviation for each size, and return the greatest.

    A deviation is the greatest difference of a logit, over the greatest logit where that is above 1.
    """
    clips = [example((most if i == 1 else 1, *size), num_frames, seed=i + 1) for i, size in enumerate(CHECKED)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            found = pool.submit(run_exported, path, clips, torch.get_num_threads()).result()
        except BrokenProcessPool:
            raise UserError("not written: the process of the check was killed, probably for its memory") from None
    worst = 0.0
    for clip, logits in zip(clips, found, strict=True):
        with torch.no_grad():
            expected = whole(*(torch.from_numpy(clip[name]) for name in ("frames", "log_mel"))).numpy()
        if logits.shape != expected.shape:
            raise UserError(f"not written: it returns {logits.shape}, the model {expected.shape}")
        greatest = float(np.abs(expected).max())
        deviation = float(np.abs(logits - expected).max()) / max(1.0, greatest)
        batch, *_, height, width = clip["frames"].shape
        print(f"batch {batch}, {height} x {width}: deviation {deviation:.1e}, logits up to {greatest:.2f}")
        worst = max(worst, deviation) if deviation == deviation else float("nan")
    return worst


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of torch's exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def failing_part(error: BaseException, model: Any) -> str:
    """Return the model's part whose code raised an error, with its class."""
    parts = {id(part): name for name in PARTS if (part := getattr(model, name, None)) is not None}
    found = "the model"
    chain: BaseException | None = error
    while chain is not None:
        for frame, _ in traceback.walk_tb(chain.__traceback__):
            name = parts.get(id(frame.f_locals.get("self")))
            if name:
                found = f"model.{name} ({type(getattr(model, name)).__name__})"
        chain = chain.__cause__ or chain.__context__
    return found


def part_of_operator(message: str, program: Any) -> str | None:
    """Return the model's part with an operator that `message` names."""
    for node in program.graph.nodes:
        if node.op == "call_function" and repr(node.target) in message:
            for path, kind in (node.meta.get("nn_module_stack") or {}).values():
                name = path.removeprefix("model.")
                if name in PARTS:
                    return f"model.{name} ({str(kind).rpartition('.')[2]})"
    return None
