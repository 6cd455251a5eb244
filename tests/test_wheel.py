"""The wheel of `make wheel` beside another torch, in an environment of its own: `make test-wheel`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
OTHER_TORCH = os.environ.get("AVSMAMBA_OTHER_TORCH", "2.13.0")
# What the operator and its tests import; the wheel itself comes without its dependencies.
PACKAGES = ("numpy", "pytest", "pytest-timeout", "hypothesis")
PROBE = """
import sys, torch, avsmamba
from avsmamba.ops import available_backends
print(torch.__version__, avsmamba.__file__, *available_backends(), sep="\\n")
"""


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_wheel_runs_the_operator_s_tests_on_another_torch(tmp_path):
    (wheel,) = (ROOT / "dist").glob("avsmamba-*.whl")
    assert "-cp310-abi3-" in wheel.name
    assert torch.__version__.split("+")[0] != OTHER_TORCH, "the wheel was built with the very torch it is tested on"
    # Kept between runs: torch is most of a gigabyte.
    venv = Path(os.environ.get("AVSMAMBA_WHEEL_VENV", ROOT / ".venv-wheel")).absolute()
    python = venv / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", venv)
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run(*pip, f"torch=={OTHER_TORCH}", *PACKAGES)
    run(*pip, "--force-reinstall", "--no-deps", wheel)
    for name in ("__init__.py", "conftest.py", "ops"):
        copy = shutil.copytree if (ROOT / "tests" / name).is_dir() else shutil.copyfile
        (tmp_path / "tests").mkdir(exist_ok=True)
        copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    # Nothing of the source folder may be found: a folder of its own, and no PYTHONPATH.
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    version, path, *backends = run(python, "-c", PROBE, cwd=tmp_path, env=clean).split("\n")[:-1]
    assert version.split("+")[0] == OTHER_TORCH
    assert Path(path).is_relative_to(venv)
    assert "cpu" in backends, "the compiled kernel does not load beside this torch"
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops")
    print(run(*command, cwd=tmp_path, env=clean)[-1000:])
