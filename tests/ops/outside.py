"""mamba_ssm's and causal_conv1d's own reference functions, also from an installation without their CUDA build.

Their modules import their CUDA extension (and triton) in the first lines; the reference functions use neither. Where
the plain import fails, the module is loaded with substitutes for these, and without the package's `__init__`, which
imports whole models.
"""

import functools
import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from unittest import mock

import pytest

UNUSED = ("selective_scan_cuda", "mamba_ssm.ops.triton.layer_norm", "causal_conv1d_cuda")


class StandIn(ModuleType):
    """A module whose functions can be named, but not called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*args, **kwargs):
            raise AssertionError(f"the reference was to do without {self.__name__}.{name}")

        return called


@functools.cache
def _load(module):
    try:
        return importlib.import_module(module)
    except ImportError:
        package = ModuleType(module.split(".")[0])
        package.__path__ = find_spec(package.__name__).submodule_search_locations
        with mock.patch.dict(sys.modules, {package.__name__: package} | {name: StandIn(name) for name in UNUSED}):
            return importlib.import_module(module)


def reference(module, name):
    """Return a function of an outside package, or skip the test where the package is not installed."""
    package = module.split(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed (make outside)")
    return getattr(_load(module), name)
