"""Builds the CPU operator as a stable-ABI extension: one binary for every Python from 3.10 and every torch from 2.10.

Without torch or a C++ compiler the package installs all the same and runs on its plain torch backend.
AVSMAMBA_NO_EXT=1 leaves the extension out on purpose; AVSMAMBA_REQUIRE_EXT=1 makes its failure an error.
"""

import os
import sys
import warnings
from glob import glob

from setuptools import setup


def extension():
    """Keyword arguments of `setup` that build the extension, or none."""
    if os.environ.get("AVSMAMBA_NO_EXT") == "1":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        without("torch is not there at build time: install it first and pass --no-build-isolation to pip")
        return {}

    class OptionalBuild(BuildExtension):
        """A build that fails leaves a package that runs on the torch backend."""

        def run(self):
            try:
                super().run()
            except Exception as error:
                without(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")

    cpu = CppExtension(
        "avsmamba._cpu",
        sorted(glob("csrc/cpu/*.cpp")),
        depends=sorted(glob("csrc/cpu/*.h") + glob("csrc/cpu/*.inl")),
        extra_compile_args=[
            "-O3",
            "-g0",
            "-std=c++20",
            "-fno-math-errno",
            "-Wno-unknown-pragmas",
            "-Wno-psabi",
            "-DPy_LIMITED_API=0x030A0000",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
        ],
        py_limited_api=True,
    )
    return {
        "ext_modules": [cpu],
        "cmdclass": {"build_ext": OptionalBuild},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def without(reason):
    """Say once that the extension is left out, and why."""
    if os.environ.get("AVSMAMBA_REQUIRE_EXT") == "1":
        raise SystemExit(f"avsmamba: AVSMAMBA_REQUIRE_EXT=1, but the C++ operator cannot be built ({reason})")
    message = f"avsmamba is built without its C++ operator ({reason}). It runs on plain torch, many times slower."
    warnings.warn(message, stacklevel=2)
    print(message, file=sys.stderr)


setup(**extension())
