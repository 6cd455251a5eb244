"""What the scan and the convolution share: the compiled extensions, checks of the backend, precision and layout."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

try:
    import avsmamba._cpu

    HAS_CPU_KERNEL = True
except ImportError:
    HAS_CPU_KERNEL = False

try:
    import avsmamba._cuda  # type: ignore[import-not-found]  # noqa: F401

    HAS_CUDA_KERNEL = True
except ImportError:
    HAS_CUDA_KERNEL = False


def check_backend(backend: str, known: tuple[str, ...], x: Tensor) -> None:
    """Check that a backend exists and, for 'cpu' and 'cuda', that its kernels can run on x.

    Raises:
        ValueError: if the name is not one of `known`.
        RuntimeError: if its extension was not built, or x is on another device.
    """
    if backend not in known:
        raise ValueError(f"backend: expected one of {known}, got {backend!r}")
    for name, built, need in (
        ("cpu", HAS_CPU_KERNEL, "g++ at install time"),
        ("cuda", HAS_CUDA_KERNEL, "nvcc: FORCE_CUDA=1 at install time"),
    ):
        if backend == name and not (built and x.device.type == name):
            reason = f"x is on {x.device}" if built else f"the extension was not built (needs {need})"
            raise RuntimeError(f"backend: {name!r} cannot run: {reason}")


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to which an operator casts x: autocast's where it is on, but float64 stays."""
    if x.device.type == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of states and sums: float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def contiguous_rows(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors with a last axis of stride 1; the kernels take any other strides."""
    return [t if t.stride(-1) == 1 or t.shape[-1] <= 1 else t.contiguous() for t in tensors]


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Refuse tensors with a tangent of forward-mode differentiation, which torch.library would drop silently.

    Raises:
        RuntimeError: if a tensor has one (torch.func.jvp, jacfwd, torch.autograd.forward_ad).
    """
    for t in tensors:
        if t is not None and forward_ad.unpack_dual(t).tangent is not None:
            raise RuntimeError(f"{name} has no forward-mode derivative (jvp); backend='torch' has one")
