"""Count the subnormal numbers of torch's operations in the decoder's backward, and time it with and without them.

    python benchmarks/subnormals.py [--repeats N] [--case NAME ...]

Some processors run an instruction with a subnormal operand or result (below 1.2e-38) a hundred times slower, others as
fast as any other. So the number of such instructions is counted, operation by operation: each traps once
(`benchmarks/subnormals.cpp`; the scan's and the convolution's own flush such numbers and are not counted). The times
are the processor's, of the same backward without and with `torch.set_flush_denormal(True)`, in turns. Runs on one
thread; needs g++, x86-64 and Linux.
"""

import argparse
import ctypes
import platform
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from common import machine, title
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from avsmamba.models.layers import V2AFusionBlock

SOURCE = Path(__file__).with_suffix(".cpp")
# Sides of the maps, and what is added to the bias of delta before softplus: 2 makes steps seven times as long.
CASES = {
    "28, 14, 7": ((28, 14, 7), 0.0),
    "56, 28": ((56, 28), 0.0),
    "28, 14, 7, longer steps": ((28, 14, 7), 2.0),
}


class Counted(TorchDispatchMode):
    """Instructions of each of torch's operations that meet a subnormal number; those of avsmamba are left alone."""

    def __init__(self, counter: ctypes.CDLL):
        super().__init__()
        self.counter, self.met = counter, Counter[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "avsmamba":
            return function(*args, **(kwargs or {}))
        before = self.counter.met()
        self.counter.start()
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self.counter.stop()
            self.met[function.overloadpacket.__name__] += self.counter.met() - before


def build(folder: Path) -> ctypes.CDLL:
    """Compile the counter.

    Raises:
        subprocess.CalledProcessError: if it does not compile.
    """
    library = folder / "subnormals.so"
    subprocess.run(["g++", "-O2", "-std=c++20", "-shared", "-fPIC", str(SOURCE), "-o", str(library)], check=True)
    counter = ctypes.CDLL(str(library))
    counter.met.restype = ctypes.c_long
    return counter


def decoder_loss(sizes: tuple[int, ...], longer: float, channels: int = 256, frames: int = 5) -> Tensor:
    """Return the masks' mean cross-entropy after two layers of frame and temporal fusion, over maps of these sides."""
    torch.manual_seed(0)
    maps = [torch.randn(1, frames, side, side, channels, requires_grad=True) for side in sizes]
    audio = torch.randn(1, frames, channels)
    for level in ("frame", "temporal") * 2:
        for visual in maps:
            block = V2AFusionBlock(channels, level)
            block.ssm.dt_bias.data += longer
            audio = block(visual, audio)
    logits = [(visual * audio[:, :, None, None]).sum(-1) / channels**0.5 for visual in maps]
    masks = [torch.ones_like(mask) for mask in logits]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    return torch.stack([entropy(mask, truth) for mask, truth in zip(logits, masks, strict=True)]).mean()


def backward_seconds(loss: Tensor, flush: bool) -> float:
    """Measure processor seconds of a backward through a loss whose graph is kept."""
    torch.set_flush_denormal(flush)
    start = time.process_time()
    loss.backward(retain_graph=True)
    seconds = time.process_time() - start
    torch.set_flush_denormal(False)
    return seconds


def missing() -> str | None:
    """Return what is required but not installed here, or None."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return "this is not x86-64 with Linux"
    return "g++ is not installed" if shutil.which("g++") is None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="backward passes of each kind that are timed")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    args = parser.parse_args()
    if (lacking := missing()) is not None:
        raise SystemExit(f"benchmarks/subnormals.py: {lacking}")
    torch.set_num_threads(1)
    print(title(machine()))
    with tempfile.TemporaryDirectory() as folder:
        counter = build(Path(folder))
    for name in args.case:
        loss = decoder_loss(*CASES[name])
        pairs = [(backward_seconds(loss, False), backward_seconds(loss, True)) for _ in range(args.repeats)]
        plain, flushed = (min(times) * 1e3 for times in zip(*pairs, strict=True))
        with Counted(counter) as counted:
            loss.backward()
        where = ", ".join(f"{operation} {n:,}" for operation, n in counted.met.most_common() if n) or "nowhere"
        print(f"{name}: {plain:.0f} ms, flushed from outside {flushed:.0f} ms ({plain / flushed:.2f} times)")
        print(f"  instructions that meet a subnormal number: {counted.met.total():,} ({where})", flush=True)


if __name__ == "__main__":
    main()
