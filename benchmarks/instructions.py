"""Count the instructions of the CPU kernels under callgrind: repeatable under any load.

    python benchmarks/instructions.py [--record] [--json FILE]

One build of the kernels is counted, AVX2: valgrind does not support AVX-512. They run on one thread, without torch, on
one fixed problem each. `--record` writes the counts into `benchmarks/instructions.json` under the compiler's version,
since another compiler produces other code; `tests/benchmarks/test_instructions.py` fails when a kernel runs 5 % more
than that. Needs g++, valgrind and a CPU with AVX2.
"""

import argparse
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "instructions.json"
SOURCES = ROOT / "csrc" / "cpu"
DRIVER = ROOT / "benchmarks" / "kernels.cpp"
FLAGS = [*runpy.run_path(str(ROOT / "setup.py"))["CXX_FLAGS"], "-fPIC"]
LIMIT = 0.05

# batch, length, channels, directions, states, rank, start and length of the wanted output
SCAN = {16: (1, 392, 64, 4, 16, 16, 0, 392), 1: (1, 392, 64, 4, 1, 16, 0, 392)}
# batch, frames, rows, columns, channels, kernel, zeros in front, SiLU
CONV = {"3D": (1, 5, 14, 14, 64, 3, 3, 3, 1, 1, 1, 1), "2D": (5, 1, 14, 14, 64, 1, 3, 3, 0, 1, 1, 1)}
CASES = {
    f"{kind} {way}, {what}": (f"{kind}_{way}", sizes)
    for kind, problems in (("scan", {f"N = {n}": s for n, s in SCAN.items()}), ("conv", CONV))
    for what, sizes in problems.items()
    for way in ("forward", "backward")
}


def compiler_version(compiler: str = "g++") -> str:
    """Return the compiler, as 'g++ 12.2.0'."""
    done = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True)
    return f"g++ {done.stdout.strip()}"


def build(kernels: str = "avx2", compiler: str = "g++", flags: list[str] = FLAGS) -> Path:
    """Compile the driver with one build of the kernels (portable, avx2, avx512 or double), once for a content.

    Raises:
        RuntimeError: with the compiler's words, if it does not compile.
    """
    files = [DRIVER, *sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.inl")), SOURCES / f"kernels_{kernels}.cpp"]
    # Static: valgrind starts faster, and an emulator needs no libraries of its CPU.
    command = [compiler, *flags, "-static", f"-DKERNELS={kernels}", f"-I{SOURCES}", str(DRIVER), str(files[-1])]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    content = [version, *flags, kernels, *(file.read_text() for file in files)]
    cache = Path(tempfile.gettempdir()) / f"avsmamba_kernels_{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    program = cache / hashlib.sha256("\0".join(content).encode()).hexdigest()[:20]
    if not program.exists():
        partial = program.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        partial.replace(program)
    return program


def problem(kernel: str, sizes: tuple[int, ...], seed: int = 0) -> bytes:
    """Write random tensors of a kernel, as its driver reads them."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
        return (random.standard_normal(shape) * scale + mean).astype(np.float32)

    if kernel.startswith("scan"):
        b, length, channels, k, n, rank, _, out_length = sizes
        tensors = [normal(b, length, channels), normal(b, length, k, rank), *(normal(b, length, k, n) for _ in "BC")]
        tensors += [-np.abs(normal(k, channels, n)) - 0.05, normal(k, channels)]
        tensors += [normal(k, channels, rank, scale=0.1), normal(k, channels, mean=-1.5)]
        tensors += [np.stack([random.permutation(length) for _ in range(k)]).astype(np.int32)]
        dy = normal(b, out_length, channels)
    else:
        channels = sizes[4]
        x = normal(*sizes[:5])
        tensors = [x, normal(channels, *sizes[5:8], scale=0.2), normal(channels)]
        dy = normal(*x.shape)
    return b"".join(t.tobytes() for t in [*tensors, *([dy] if kernel.endswith("backward") else [])])


def count(program: Path, kernel: str, sizes: tuple[int, ...]) -> int:
    """Count the instructions that a kernel runs on its problem.

    Raises:
        RuntimeError: if the program fails under valgrind.
    """
    valgrind = ["valgrind", "--tool=callgrind", "--toggle-collect=*measured(*", "--callgrind-out-file=/dev/null"]
    words = [*valgrind, str(program), kernel, "same", *(str(size) for size in sizes)]
    done = subprocess.run(words, input=problem(kernel, sizes), capture_output=True)
    collected = re.search(r"Collected : (\d+)", done.stderr.decode())
    if done.returncode or not collected or int(collected[1]) == 0:
        raise RuntimeError(f"{kernel} under valgrind: {done.stderr.decode()[-2000:]}")
    return int(collected[1])


def units(kernel: str, sizes: tuple[int, ...]) -> int:
    """Count the state updates of a scan, or the products of a convolution."""
    if kernel.startswith("scan"):
        b, length, channels, k, n = sizes[:5]
        return b * length * channels * k * n
    return int(np.prod(sizes[:8]))


def verdict(name: str, counted: int, before: int) -> tuple[bool, str]:
    """Return whether a count is within the limit of the recorded one, and the sentence that reports it."""
    change = f"{name}: {counted:,} instructions, {counted / before - 1:+.1%} against the record of {before:,}"
    if counted > before * (1 + LIMIT):
        return False, f"{change}; if that is meant, run: python benchmarks/instructions.py --record"
    if counted < before * (1 - LIMIT):
        return True, f"{change}; to hold what was won, run: python benchmarks/instructions.py --record"
    return True, change


def missing() -> str | None:
    """Return what is required but not installed here, or None."""
    for tool in ("g++", "valgrind"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    cpus = Path("/proc/cpuinfo")
    flags = cpus.read_text() if cpus.exists() else ""
    return None if re.search(r"\bavx2\b", flags) and re.search(r"\bfma\b", flags) else "this CPU has no AVX2"


def recorded(path: Path = RECORD) -> dict[str, dict]:
    """Read {compiler: {'flags', 'instructions'}}."""
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write the counts to {RECORD.relative_to(ROOT)}")
    parser.add_argument("--json", type=Path, help="write the counts to this file too")
    args = parser.parse_args()
    if (lacking := missing()) is not None:
        raise SystemExit(f"benchmarks/instructions.py: {lacking}")
    version, program = compiler_version(), build()
    before = recorded().get(version, {}).get("instructions", {})
    print(f"AVX2, {version}, {' '.join(FLAGS)}")
    print(f"{'':24} {'instructions':>14} {'a unit':>8}  against the record")
    counts = {}
    for name, (kernel, sizes) in CASES.items():
        counts[name] = count(program, kernel, sizes)
        change = f"{counts[name] / before[name] - 1:+.2%}" if name in before else "none"
        print(f"{name:24} {counts[name]:14,} {counts[name] / units(kernel, sizes):8.3f}  {change}", flush=True)
    print(
        "a unit: a state update of a scan (batch x length x directions x channels x states), a product of a convolution"
    )
    outcome = {"flags": FLAGS, "instructions": counts}
    for path, content in ((RECORD, recorded() | {version: outcome}), (args.json, {version: outcome})):
        if path is not None and (args.record or path is not RECORD):
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
