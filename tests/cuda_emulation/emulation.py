"""Builds the CUDA kernels over the emulation and calls them with CPU tensors, as the CUDA operators are called."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc" / "cuda"
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


class EmulationError(Exception):
    """The emulation saw a race, a deadlock or an add outside of the outputs."""


def build(name: str = "", old: str = "", new: str = "") -> ctypes.CDLL:
    """Build the emulated kernels, or a mutant with a text of one file replaced (float32 only), once for a content."""
    files = [*SOURCES.glob("*.cuh"), HERE / "cuda_emulation.h", HERE / "emulated_scan.cpp"]
    texts = {p.name: p.read_text() for p in files}
    command = ["g++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "emulated_scan.cpp", "-o", "scan.so"]
    if name:
        assert texts[name].count(old) == 1, f"{name}: expected once, found {texts[name].count(old)} times: {old}"
        texts[name] = texts[name].replace(old, new)
        command.append("-DFLOAT32_ONLY")
    digest = hashlib.sha256(repr((command, sorted(texts.items()))).encode()).hexdigest()[:20]
    cache = Path(tempfile.gettempdir()) / f"avsmamba_cuda_emulation_{os.getuid()}"
    library = cache / f"{digest}.so"
    if not library.exists():
        folder = Path(tempfile.mkdtemp(prefix=digest, dir=_made(cache)))
        for file, text in texts.items():
            (folder / file).write_text(text)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder / "scan.so").replace(library)
        shutil.rmtree(folder)
    loaded = ctypes.CDLL(str(library))
    loaded.emulated_scan.restype = ctypes.c_char_p
    return loaded


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


class Kernels:
    """`forward` and `backward` of the operators that csrc/cuda/scan.cu registers.

    Args:
        library: what `build` gave.
        seed: the order in which the emulation runs blocks, warps and threads, 0 … 15 (see `State`).
    """

    def __init__(self, library: ctypes.CDLL, seed: int = 0):
        self.library, self.seed = library, seed

    def forward(self, x, dt, B, C, A, D, dt_weight, dt_bias, order, steps, out_start, out_length, y):
        tensors = [x, dt, B, C, A, D, dt_weight, dt_bias, order, steps, y]
        self._run(tensors, (out_start, out_length), (1, 1), backward=False)

    def backward(self, dy, x, dt, B, C, A, D, dt_weight, dt_bias, order, steps, out_start, out_length, borders, *grads):
        tensors = [x, dt, B, C, A, D, dt_weight, dt_bias, order, steps, dy, borders, *grads]
        self._run(tensors, (out_start, out_length), (len(grads[1]), len(grads[4])), backward=True)

    def _run(self, tensors, out, copies, backward):
        x, dt, B, C, A = tensors[:5]
        assert all(t.is_contiguous() for t in tensors[4:])
        strides = [s for t in (x, dt, B, C) for s in t.stride()[:-1]]
        sizes = [*x.shape, A.shape[0], A.shape[2], dt.shape[3], *out, *copies, *strides]
        error = self.library.emulated_scan(
            (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)),
            (ctypes.c_int64 * len(sizes))(*sizes),
            TYPES[x.dtype],
            int(backward),
            self.seed,
        )
        if error:
            raise EmulationError(error.decode())
