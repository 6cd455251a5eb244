"""The CPU operator without x86-64's vectors: as a whole on this CPU, and its kernels on an emulated aarch64."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import torch

from avsmamba.ops import depthwise_conv, reference_scan
from tests.ops.conftest import NAMES, relative_error, scan_inputs

instructions = pytest.importorskip("benchmarks.instructions", reason="needs the source folder")

CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
# Not -O3: these tests ask whether the code is right, and a third of the time compiles it.
FLAGS = [flag for flag in instructions.FLAGS if flag not in ("-O3", "-g0")] + ["-O1", "-w"]
WITH_TORCH = ("scan.cpp", "conv.cpp")
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_cross = pytest.mark.skipif(shutil.which(CROSS) is None, reason=f"{CROSS} is not installed")
needs_emulator = pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")
pytestmark = pytest.mark.timeout(900)


def compile_all(compiler, names, folder, *flags):
    """Return object files of csrc/cpu's sources, all compiled at the same time."""
    from torch.utils.cpp_extension import include_paths

    paths = [*include_paths(), sysconfig.get_paths()["include"], str(instructions.SOURCES)]
    common = [*FLAGS, *flags, "-DPy_LIMITED_API=0x030A0000", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    common += [f"-I{path}" for path in paths]
    objects = [folder / f"{name}.o" for name in names]
    processes = [
        subprocess.Popen(
            [compiler, *common, "-c", str(instructions.SOURCES / name), "-o", str(o)], stderr=subprocess.PIPE, text=True
        )
        for name, o in zip(names, objects, strict=True)
    ]
    for name, process in zip(names, processes, strict=True):
        errors = process.communicate()[1]
        assert process.returncode == 0, f"{name}: {errors[-3000:]}"
    return objects


@pytest.fixture(scope="module")
def portable_extension():
    """Return the extension with AVSMAMBA_PORTABLE_ONLY, built once for a content of the sources."""
    sources = sorted(instructions.SOURCES.iterdir())
    content = [torch.__version__, sys.version, *FLAGS, *(p.read_text() for p in sources)]
    cache = Path(tempfile.gettempdir()) / f"avsmamba_portable_{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    library = cache / f"{hashlib.sha256(repr(content).encode()).hexdigest()[:20]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            names = [p.name for p in sources if p.suffix == ".cpp"]
            objects = compile_all("g++", names, Path(folder), "-DAVSMAMBA_PORTABLE_ONLY")
            lib, built = Path(torch.__file__).parent / "lib", Path(folder) / "built.so"
            command = ["g++", "-shared", *map(str, objects), f"-L{lib}", f"-Wl,-rpath,{lib}", "-ltorch_cpu", "-lc10"]
            subprocess.run([*command, "-o", str(built)], check=True)
            built.replace(library)
    return library


# avsmamba._cpu is the library of the first argument; then pytest with the others.
RUN = """
import importlib.util, sys
import torch
spec = importlib.util.spec_from_file_location("avsmamba._cpu", sys.argv[1])
sys.modules["avsmamba._cpu"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from avsmamba import info
assert info.cpu_instruction_set() == "portable"
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""
CHECKS = "float64 or strided or 16_bit or low_precision or slice or empty"


@needs_gxx
def test_the_operators_without_vector_instructions_equal_the_reference(portable_extension):
    files = [f"tests/ops/{name}.py" for name in ("test_selective_scan", "test_depthwise_conv")]
    done = run_with(portable_extension, "-p", "no:cacheprovider", "-k", CHECKS, *files)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 10, done.stdout
    assert "skipped" not in done.stdout, done.stdout


@needs_gxx
def test_such_a_build_refuses_the_vectors_that_it_lacks(portable_extension):
    done = run_with(portable_extension, env=os.environ | {"AVSMAMBA_CPU_ISA": "avx2"})
    assert "AVSMAMBA_CPU_ISA: this build has portable only, got avx2" in done.stderr


def run_with(library, *args, env=None):
    command = [sys.executable, "-c", RUN, str(library), *args]
    return subprocess.run(command, cwd=instructions.ROOT, env=env, capture_output=True, text=True)


@needs_cross
def test_the_torch_side_compiles_for_aarch64(tmp_path):
    for o in compile_all(CROSS, WITH_TORCH, tmp_path):
        assert o.read_bytes()[18:20] == b"\xb7\x00", "not an object file of aarch64"


def on_aarch64(kernel, dtype, sizes, tensors, shapes):
    """Run the driver; return float64 tensors of `shapes`. The state's dtype selects its build."""
    double = dtype == torch.float64
    program = instructions.build("double" if double else "portable", CROSS, FLAGS)
    name = {torch.bfloat16: "bfloat16", torch.float16: "float16"}.get(dtype, "same")
    stdin = b"".join(t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors)
    command = [EMULATOR, str(program), kernel, name, *(str(int(size)) for size in sizes)]
    done = subprocess.run(command, input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    values = torch.frombuffer(bytearray(done.stdout), dtype=torch.float64 if double else torch.float32).double()
    parts = values.split([torch.Size(shape).numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-5, torch.float16: 1e-5}


@needs_cross
@needs_emulator
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_scan_on_aarch64_equals_the_float64_reference(dtype):
    b, length, channels, directions, states, rank, start, wanted = 2, 45, 83, 3, 11, 5, 4, 37
    inputs, order = scan_inputs(b, length, channels, directions, states, rank, dtype)
    dy = torch.randn(b, wanted, channels).to(dtype)
    exact = [t.double().requires_grad_() for t in inputs]
    expected = reference_scan(*exact, order, (start, wanted))
    gradients = torch.autograd.grad(expected, exact, dy.double())
    sizes, tensors = (b, length, channels, directions, states, rank, start, wanted), [*inputs, order]
    (y,) = on_aarch64("scan_forward", dtype, sizes, tensors, [expected.shape])
    got = on_aarch64("scan_backward", dtype, sizes, [*tensors, dy], [t.shape for t in inputs])
    for name, a, e in zip(("y", *NAMES), (y, *got), (expected, *gradients), strict=True):
        assert relative_error(a, e) < TOLERANCES[dtype], name


@needs_cross
@needs_emulator
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_convolution_on_aarch64_equals_torch_s(dtype):
    shape, kernel, channels = (2, 3, 5, 6, 70), (3, 3, 3), 70
    x, dy = (torch.randn(shape).to(dtype) for _ in range(2))
    state = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = torch.randn(channels, 1, *kernel, dtype=state), torch.randn(channels, dtype=state)
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = depthwise_conv(*exact, "silu", backend="torch")
    gradients = torch.autograd.grad(expected, exact, dy.double())
    sizes = (*shape, *kernel, 1, 1, 1, 1)
    (y,) = on_aarch64("conv_forward", dtype, sizes, [x, weight, bias], [shape])
    got = on_aarch64("conv_backward", dtype, sizes, [x, weight, bias, dy], [shape, weight.shape, bias.shape])
    for name, a, e in zip(("y", "dx", "dweight", "dbias"), (y, *got), (expected, *gradients), strict=True):
        assert relative_error(a, e) < TOLERANCES[dtype], name


@needs_cross
@needs_emulator
@pytest.mark.parametrize(("dtype", "small"), [(torch.float32, 1e-40), (torch.bfloat16, 1e-40), (torch.float64, 1e-310)])
def test_aarch64_takes_subnormals_for_zeros(dtype, small):
    shape, channels = (1, 1, 3, 4, 8), 8
    x = torch.full(shape, small, dtype=dtype)
    x[..., ::2] = 1
    state = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = torch.ones(channels, 1, 1, 1, 1, dtype=state), torch.zeros(channels, dtype=state)
    (y,) = on_aarch64("conv_forward", dtype, (*shape, 1, 1, 1, 0, 0, 0, 0), [x, weight, bias], [shape])
    assert (y[..., ::2] == 1).all() and (y[..., 1::2] == 0).all()
