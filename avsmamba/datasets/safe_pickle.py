"""Load pickled tensors without executing code from the file."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.storage import TypedStorage

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # pickled at the head of torch.save's older format


def load_tensor(content: bytes) -> Any:
    """Load a tensor, or a numeric array as a tensor, that `pickle.dump` or `torch.save` wrote.

    Only the names that rebuild a tensor or an array are resolved; any other one is refused before it is called.

    Returns:
        A tensor, or another plain value if the file holds one.

    Raises:
        Exception: of nearly any type, if the content is damaged or refers to another name.
    """
    value = _load(content)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(np.ascontiguousarray(value))
    return value


def _load(content: bytes) -> Any:
    if content[:4] == b"PK\x03\x04":
        return _torch_load(content)
    value = _TensorUnpickler(io.BytesIO(content)).load()
    return _torch_load(content) if isinstance(value, int) and value == TORCH_MAGIC else value


def _torch_load(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _TensorUnpickler(pickle.Unpickler):
    """Resolves only names that rebuild a tensor or an array, and never torch's own `_load_from_bytes`."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        # New functions for each file: a pickle can set attributes of every object that it receives.
        self.known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": lambda *args: _tensor(*args[:4]),
            "torch._utils._rebuild_parameter": lambda *args: args[0],
            "torch.storage._load_from_bytes": lambda content: _torch_load(content),
            "torch.nn.parameter.Parameter": lambda *args: args[0],
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # bytes in numpy's protocol 2
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": lambda *_: np.ndarray((0,), "b"),
            "numpy.core.numeric._frombuffer": _array,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a tensor does not need")
        return self.known[full]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside the file")


def _tensor(storage: Any, offset: int, size: Any, stride: Any) -> Tensor:
    if not isinstance(storage, TypedStorage):
        raise pickle.UnpicklingError("its tensor has no storage")
    flat = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)
    return torch.as_strided(flat, tuple(size), tuple(stride), offset)  # checks the bounds, unlike set_


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape, order="F" if order == "F" else "C").copy()
