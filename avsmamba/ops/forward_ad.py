"""The operators have no forward-mode derivative; torch.library drops tangents in silence."""

from torch import Tensor
from torch.autograd import forward_ad


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Raise a RuntimeError if any tensor carries a tangent (torch.func.jvp, jacfwd, torch.autograd.forward_ad)."""
    for t in tensors:
        if t is not None and forward_ad.unpack_dual(t).tangent is not None:
            raise RuntimeError(f"{name} has no forward-mode derivative (jvp); backend='torch' has one")
