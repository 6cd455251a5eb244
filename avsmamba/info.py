"""`python -m avsmamba.info`: which backends of the scan are built and loaded, and how to build the missing ones."""

import importlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from avsmamba.ops import available_backends, multi_directional_scan, scan_mamba_ssm, selective_scan
from avsmamba.utils import one_line
from avsmamba.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "mmengine")
OPTIONAL = ("causal_conv1d", "mamba_ssm")
# Compiled backends: the module of each, and its compiler.
EXTENSIONS = {"cpu": ("avsmamba._cpu", "g++"), "cuda": ("avsmamba._cuda", "nvcc")}
ISA_VARIABLE = "AVSMAMBA_CPU_ISA"
INSTALL = "pip install --no-build-isolation -e ."


def installed(package: str) -> str:
    """Return the version of a package, or 'not installed'."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def torch_build() -> str:
    """Return what torch was built for, and the GPU that it finds."""
    if torch.version.cuda is None:
        return "a CPU build"
    if not torch.cuda.is_available():
        return f"built for CUDA {torch.version.cuda}, no GPU here"
    major, minor = torch.cuda.get_device_capability()
    return f"built for CUDA {torch.version.cuda}, {torch.cuda.get_device_name()} (sm_{major}{minor})"


def cpu_instruction_set() -> str:
    """Return which build of the CPU kernel a scan runs here: 'avx512', 'avx2' or 'portable'.

    Each is tried on one token, so that the kernel's own choice is reported.

    Raises:
        RuntimeError: if AVSMAMBA_CPU_ISA requests one that is missing here.
    """
    forced = os.environ.get(ISA_VARIABLE)
    if forced:
        _scan_one_token()
        return forced
    try:
        for name in ("avx512", "avx2"):
            os.environ[ISA_VARIABLE] = name
            try:
                _scan_one_token()
            except RuntimeError:
                continue
            return name
        return "portable"
    finally:
        del os.environ[ISA_VARIABLE]


def _scan_one_token() -> None:
    token, one = torch.ones(1, 1, 1, 1), torch.ones(1, 1)
    order = torch.zeros(1, 1, dtype=torch.int32)
    multi_directional_scan(token[0], token, token, token, -token[0], one, token[0], one, order, backend="cpu")


def extension_state(name: str) -> tuple[str, str | None]:
    """Return the state of a compiled backend in one phrase, and what to do about it (None: nothing)."""
    module, compiler = EXTENSIONS[name]
    install = f"FORCE_CUDA=1 {INSTALL}" if name == "cuda" else INSTALL  # without, only where torch sees a GPU
    if find_spec(module) is None:
        if name == "cuda" and torch.version.cuda is None:
            return "not built, and torch is a CPU build", None
        if shutil.which(compiler) is None:
            return "not built", f"{name}: install {compiler}, then run `{install}` in the source folder"
        return "not built", f"{name}: run `{install}` in the source folder ({compiler} is installed)"
    try:
        path = importlib.import_module(module).__file__
    except ImportError as error:
        why = one_line(error)
        if name == "cuda" and torch.version.cuda is None:
            return f"built, but does not load beside a CPU build of torch: {why}", "cuda: install a torch for CUDA"
        state = f"built, but does not load: {why}"
        return state, f"{name}: build it again: `{install}`; it needs torch 2.10 or later"
    if name not in available_backends():
        return f"loaded from {path}, but nothing here can run it", None
    return f"loaded from {path}", None


def report() -> str:
    """Return the whole report, about ten lines."""
    lines = [
        f"avsmamba {__version__} in {Path(__file__).parent}",
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        ", ".join(f"{name} {installed(name)}" for name in PACKAGES),
        f"torch is {torch_build()}",
        "optional, for GPUs: " + ", ".join(f"{name} {installed(name)}" for name in OPTIONAL),
        "backends of the scan (torch's stable ABI: built once for every torch from 2.10, Python from 3.10):",
    ]
    todo = []
    for name in selective_scan.BACKENDS:
        if name in EXTENSIONS:
            state, what = extension_state(name)
            if what is not None:
                todo.append(what)
            lines.append(f"  {name:10}{state}")
    if "cpu" in available_backends():
        lines.append(f"            the CPU kernel runs its {_isa_or_error()} build")
    lines.append(f"  mamba_ssm for comparison: {scan_mamba_ssm.what_is_missing() or 'loaded'}")
    lines.append("  torch     always there: the plain reference, many times slower")
    lines += [f"to do: {what}" for what in todo] or ["nothing is missing"]
    return "\n".join(lines)


def _isa_or_error() -> str:
    try:
        return cpu_instruction_set()
    except RuntimeError as error:
        return f"[{one_line(error)}]"


if __name__ == "__main__":
    print(report())
