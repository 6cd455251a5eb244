"""Builds the operator as stable-ABI extensions: one binary for every Python from 3.10 and every torch from 2.10.

Without torch or a C++ compiler the package installs all the same and runs on its plain torch backend.
AVSMAMBA_NO_EXT=1 leaves the extensions out on purpose; AVSMAMBA_REQUIRE_EXT=1 makes the failure of one an error. The
CUDA kernels are built, for sm_80, sm_90 and sm_100, where there are nvcc and a GPU, or with FORCE_CUDA=1 (needs nvcc
only; CUDA_HOME says where). AVSMAMBA_NO_CUDA=1 leaves them out. A build with them has torch's CUDA in its version
(0.1.0+cu130), so that the two wheels have different names.

A wheel holds models/ as avsmamba/shipped_models/; an editable install finds it where it is (model_zoo/bundled.py).
"""

import os
import shutil
import sys
import warnings
from glob import glob

from setuptools import setup
from setuptools.command.build_py import build_py

# Also those of benchmarks/instructions.py and of the tests that build the kernels without torch.
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-fno-math-errno", "-Wno-unknown-pragmas", "-Wno-psabi"]
STABLE_ABI = ["-DPy_LIMITED_API=0x030A0000", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


class WithModels(build_py):
    """The package, and the shipped models inside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = os.path.join(self.build_lib, "avsmamba", "shipped_models")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("models", target, ignore=shutil.ignore_patterns(".*"))


def extension():
    """Keyword arguments of `setup` that build the extension, or none."""
    if os.environ.get("AVSMAMBA_NO_EXT") == "1":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        without("torch is not there at build time: install it first and pass --no-build-isolation to pip")
        return {}

    class OptionalBuild(BuildExtension):
        """A build that fails leaves a package that runs on the torch backend, and the other extension built."""

        def run(self):
            before = {name: getattr(self, name) for name in ("compiler", "inplace", "editable_mode")}
            try:
                super().run()
            except Exception as error:  # before anything was built: no compiler, or nvcc does not fit torch
                without(reason(error), "operators")
                if len(self.extensions) > 1:  # once more without the CUDA kernels
                    vars(self).update(before, extensions=self.extensions[:1])
                    self.run()

        def build_extension(self, ext):
            try:
                super().build_extension(ext)
            except Exception as error:
                without(reason(error), "CUDA kernels" if ext.name.endswith("_cuda") else "C++ operator")
                self.extensions = [e for e in self.extensions if e is not ext]

    cpu = CppExtension(
        "avsmamba._cpu",
        sorted(glob("csrc/cpu/*.cpp")),
        depends=sorted(glob("csrc/*.h") + glob("csrc/cpu/*.h") + glob("csrc/cpu/*.inl")),
        extra_compile_args=[*CXX_FLAGS, *STABLE_ABI],
        py_limited_api=True,
    )
    extensions, options = [cpu], {"bdist_wheel": {"py_limited_api": "cp310"}}
    if wants_cuda():
        options["egg_info"] = {"tag_build": "+cu" + torch.version.cuda.replace(".", "")}
        cuda = CUDAExtension(
            "avsmamba._cuda",
            ["csrc/cuda/scan.cu"],
            depends=sorted(glob("csrc/*.h") + glob("csrc/cuda/*.cuh")),
            extra_compile_args={
                "nvcc": [
                    "-O3",
                    "-std=c++20",
                    "-DUSE_CUDA",
                    *STABLE_ABI,
                    *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90, 100)),
                ]
            },
            py_limited_api=True,
        )
        extensions.append(cuda)
    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": OptionalBuild},
        "options": options,
    }


def wants_cuda():
    """Whether to build the CUDA kernels: on demand, or where a GPU could run them."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if os.environ.get("AVSMAMBA_NO_CUDA") == "1":
        return False
    if os.environ.get("FORCE_CUDA") != "1":
        return torch.version.cuda is not None and torch.cuda.is_available() and CUDA_HOME is not None
    if torch.version.cuda is None:
        without(f"FORCE_CUDA=1, but torch {torch.__version__} is a CPU build", "CUDA kernels")
    elif CUDA_HOME is None:
        without("FORCE_CUDA=1, but no nvcc was found: set CUDA_HOME", "CUDA kernels")
    return None not in (torch.version.cuda, CUDA_HOME)


def reason(error):
    """An exception in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def without(reason, what="C++ operator"):
    """Say that an extension is left out, and why; or end, where it is required."""
    if os.environ.get("AVSMAMBA_REQUIRE_EXT") == "1":
        raise SystemExit(f"avsmamba: AVSMAMBA_REQUIRE_EXT=1, but the {what} cannot be built ({reason})")
    message = f"avsmamba is built without its {what} ({reason}). It runs on plain torch there, many times slower."
    warnings.warn(message, stacklevel=2)
    print(message, file=sys.stderr)


if __name__ == "__main__":
    options = extension()
    setup(**options | {"cmdclass": {"build_py": WithModels} | options.get("cmdclass", {})})
