"""The kernels' exp and the functions of softplus are within 2 ulp of float32, in each build."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT

LIMITS = {"exp2": 2, "exp": 2, "log1p": 2.5, "reciprocal": 3}
BUILDS = ["portable", *(["avx2", "avx512"] if platform.machine() == "x86_64" else [])]

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or not (ROOT / "csrc").is_dir(), reason="needs g++ and the sources"
)


def runs_here(build: str) -> bool:
    """Return whether this CPU has the instructions of a build."""
    needed = {"portable": set(), "avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return needed[build] <= set(next((line.split() for line in lines if line.startswith("flags")), []))


@needs_compiler
@pytest.mark.parametrize("build", BUILDS)
def test_functions_are_accurate(build, tmp_path):
    if not runs_here(build):
        pytest.skip(f"this CPU has no {build}")
    program = tmp_path / "exponentials"
    flags = ["-O1", "-std=c++20", "-fno-math-errno", "-w", f"-DBUILD={build}", f'-DSOURCE="kernels_{build}.cpp"']
    source = Path(__file__).with_name("exponentials.cpp")
    subprocess.run(["g++", *flags, f"-I{ROOT / 'csrc' / 'cpu'}", str(source), "-o", str(program)], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    found = {name: float(ulp) for name, ulp in (line.split() for line in lines)}
    assert len(found) == 7
    for name, ulp in found.items():
        assert 0.4 < ulp <= LIMITS[name.removesuffix("_near_zero")], (name, ulp)
