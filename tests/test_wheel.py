"""The wheels of `make wheel`: what is in them, and how they run beside another torch: `make test-wheel`.

The CUDA wheel's tests are skipped where it was not built (no nvcc).
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests import ROOT

OTHER_TORCH = os.environ.get("AVSMAMBA_OTHER_TORCH", "2.13.0")
# What the operator and its tests import; the wheel itself comes without its dependencies.
PACKAGES = ("numpy", "pytest", "pytest-timeout", "hypothesis")
PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check")
EXTENSIONS = {"cpu": {"_cpu.abi3.so"}, "cuda": {"_cpu.abi3.so", "_cuda.abi3.so"}}
PROBE = """
import torch, avsmamba
from avsmamba.ops import available_backends
print(torch.__version__, avsmamba.__file__, *available_backends(), sep="\\n")
"""
CUDA_PROBE = """
import torch, avsmamba._cuda
print(avsmamba._cuda.__file__, torch.ops.avsmamba_cuda.forward.default, torch.ops.avsmamba_cuda.backward.default)
"""
# Tests that need the sources, or a GPU.
NOT_OF_A_WHEEL = ("test_cuda.py", "test_cuda_emulation.py", "test_portable.py")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def environment(**more):
    """This one without the source folder: nothing of it may be found."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | more


@pytest.fixture(params=["cpu", "cuda"])
def kind(request):
    return request.param


@pytest.fixture
def wheel(kind):
    return built(kind)


def built(kind):
    """The wheel in dist/; without a CUDA one the test is skipped."""
    found = [p for p in (ROOT / "dist").glob("avsmamba-*.whl") if ("+cu" in p.name) == (kind == "cuda")]
    if kind == "cuda" and not found:
        pytest.skip("there is no CUDA wheel in dist/: make wheel builds it where nvcc is")
    (path,) = found
    return path


@pytest.fixture(scope="module")
def other_python():
    """Python of an environment with the other torch. It is kept between runs: torch is most of a gigabyte."""
    assert torch.__version__.split("+")[0] != OTHER_TORCH, "the wheel was built with the very torch it is tested on"
    venv = Path(os.environ.get("AVSMAMBA_WHEEL_VENV", ROOT / ".venv-wheel")).absolute()
    python = venv / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", venv)
    run(python, *PIP, f"torch=={OTHER_TORCH}", *PACKAGES)
    return python


def test_a_wheel_holds_the_package_and_nothing_else(wheel, kind):
    version = re.fullmatch(r"avsmamba-([^-]+)-cp310-abi3-\w+\.whl", wheel.name)[1]
    assert ("+cu" in version) == (kind == "cuda")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"avsmamba-{version}.dist-info"
        assert f"Version: {version}\n" in archive.read(f"{about}/METADATA").decode()
        assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "Tag: cp310-abi3-" in archive.read(f"{about}/WHEEL").decode()
    files = {p for p in (ROOT / "avsmamba").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    expected = {p.relative_to(ROOT).as_posix() for p in files if p.suffix != ".so"}
    expected |= {f"avsmamba/{name}" for name in EXTENSIONS[kind]}
    models = {p.relative_to(ROOT / "models").as_posix() for p in (ROOT / "models").rglob("*") if p.is_file()}
    expected |= {f"avsmamba/shipped_models/{name}" for name in models}
    assert {name for name in names if not name.startswith(f"{about}/")} == expected


def test_a_wheel_runs_the_operator_s_tests_on_another_torch(wheel, kind, other_python, tmp_path):
    run(other_python, *PIP, "--force-reinstall", "--no-deps", wheel)
    (tmp_path / "tests").mkdir()
    for name in ("__init__.py", "conftest.py"):
        shutil.copyfile(ROOT / "tests" / name, tmp_path / "tests" / name)
    shutil.copytree(ROOT / "tests" / "ops", tmp_path / "tests" / "ops", ignore=shutil.ignore_patterns(*NOT_OF_A_WHEEL))
    inside = {"cwd": tmp_path, "env": environment()}
    version, path, *backends = run(other_python, "-c", PROBE, **inside).split("\n")[:-1]
    assert version.split("+")[0] == OTHER_TORCH
    assert Path(path).is_relative_to(other_python.parents[1])
    assert "cpu" in backends, "the compiled kernel does not load beside this torch"
    report = run(other_python, "-m", "avsmamba.info", **inside)
    has_cuda = run(other_python, "-c", "import torch; print(torch.version.cuda)", **inside).strip() != "None"
    if kind == "cuda" and not has_cuda:
        assert re.search(r"^  cuda +built, but does not load beside a CPU build of torch: ", report, re.M), report
        assert "to do: cuda: install a torch for CUDA" in report
    elif kind == "cpu":
        assert re.search(r"^  cuda +not built", report, re.M), report
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    # The second wheel has the same CPU kernels: a part of the tests shows that they are there.
    tests = "tests/ops" if kind == "cpu" else "tests/ops/test_selective_scan.py"
    print(run(other_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, **inside)[-1000:])


def test_the_readme_s_lines_run_on_the_wheel_alone(tmp_path):
    """Of the source tree nothing is found: the models and the data files are the wheel's."""
    run(sys.executable, *PIP, "--no-deps", "--target", tmp_path / "site", built("cpu"))
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(lines.splitlines()) <= 6
    outside = {"cwd": tmp_path, "env": environment(PYTHONPATH=str(tmp_path / "site"))}
    run(sys.executable, "-m", "avsmamba.cli", "sample", "--out", "sample", **outside)
    shown = run(sys.executable, "-c", f"{lines}\nprint(avsmamba.__file__)", **outside).splitlines()
    assert shown[-1].startswith(str(tmp_path / "site")) and shown[0].startswith("(10, 320, 320)")
    assert {p.name for p in (tmp_path / "predictions").iterdir()} == {
        "masks",
        "masks.json",
        "overlay.mp4",
        "timeline.png",
    }


def test_the_cuda_kernels_load_beside_a_torch_for_cuda(tmp_path):
    wheel = built("cuda")
    if torch.version.cuda is None:
        pytest.skip("this torch is a CPU build")
    run(sys.executable, *PIP, "--no-deps", "--target", tmp_path / "site", wheel)
    printed = run(sys.executable, "-c", CUDA_PROBE, cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path / "site")))
    assert printed.startswith(str(tmp_path / "site"))
    assert "avsmamba_cuda.forward" in printed and "avsmamba_cuda.backward" in printed
