"""What `python -m avsmamba.info` says, with the kernel, without it, and with a broken one."""

import os
import subprocess
import sys

import pytest
import torch

from avsmamba import __version__, info
from avsmamba.ops import available_backends

needs_kernel = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ kernel was not built")


def test_the_command_prints_the_report():
    done = subprocess.run([sys.executable, "-m", "avsmamba.info"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"avsmamba {__version__} in ")
    assert any(f"torch {torch.__version__.split('+')[0]}" in line and "timm " in line for line in lines)
    assert any("causal_conv1d" in line and "mamba_ssm" in line for line in lines)
    assert any(line.startswith("  torch     always there") for line in lines)
    assert any(line.startswith("  mamba_ssm for comparison: ") for line in lines)
    assert ("nothing is missing" in lines) == (not any(line.startswith("to do: ") for line in lines))


@needs_kernel
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_a_forced_instruction_set_is_told(isa, monkeypatch):
    monkeypatch.setenv(info.ISA_VARIABLE, isa)
    try:
        assert info.cpu_instruction_set() == isa
    except RuntimeError:
        pytest.skip(f"this CPU has no {isa}")
    assert os.environ[info.ISA_VARIABLE] == isa
    monkeypatch.setenv(info.ISA_VARIABLE, "mmx")
    assert "AVSMAMBA_CPU_ISA: expected" in info.report()


@needs_kernel
def test_the_best_instruction_set_is_found_and_the_environment_left_as_it_was(monkeypatch):
    monkeypatch.delenv(info.ISA_VARIABLE, raising=False)
    found = info.cpu_instruction_set()
    assert info.ISA_VARIABLE not in os.environ
    wanted = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "portable")
    assert found == wanted


def test_an_extension_that_was_not_built_comes_with_the_command(monkeypatch):
    monkeypatch.setitem(info.EXTENSIONS, "cpu", ("avsmamba._not_there", "no-such-compiler"))
    state, what = info.extension_state("cpu")
    assert state == "not built"
    assert what == f"cpu: install no-such-compiler, then run `{info.INSTALL}` in the source folder"
    monkeypatch.setitem(info.EXTENSIONS, "cpu", ("avsmamba._not_there", "sh"))
    assert info.extension_state("cpu")[1].startswith(f"cpu: run `{info.INSTALL}`")
    assert "to do: cpu: run" in info.report() and "nothing is missing" not in info.report()


def test_an_extension_that_does_not_load_is_told_with_its_reason(monkeypatch, tmp_path):
    (tmp_path / "broken_extension.py").write_text("raise ImportError('undefined symbol: aoti_torch_x')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(info.EXTENSIONS, "cpu", ("broken_extension", "g++"))
    state, what = info.extension_state("cpu")
    assert state == "built, but does not load: undefined symbol: aoti_torch_x"
    assert "build it again" in what


def test_cuda_kernels_beside_a_cpu_build_of_torch_are_told(monkeypatch, tmp_path):
    (tmp_path / "no_cuda_here.py").write_text("raise ImportError('libc10_cuda.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(info.EXTENSIONS, "cuda", ("no_cuda_here", "nvcc"))
    monkeypatch.setattr(torch.version, "cuda", None)
    state, what = info.extension_state("cuda")
    assert (
        state == "built, but does not load beside a CPU build of torch: libc10_cuda.so: cannot open shared object file"
    )
    assert what == "cuda: install a torch for CUDA"
