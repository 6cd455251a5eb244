"""The CUDA kernels without a GPU: their own sources over an emulation, against the float64 reference, and mutants."""

import shutil

import pytest
import torch

from tests.cuda_emulation.checks import CASES, TOLERANCES, check, deviations, problem, run
from tests.cuda_emulation.emulation import EmulationError, Kernels, build

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation is built with g++")


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("case", list(CASES))
def test_kernels_equal_the_float64_reference(case, dtype, deterministic):
    check(Kernels(build()), case, dtype, deterministic)


@pytest.mark.parametrize("seed", [3, 5, 8, 15])
def test_the_order_of_threads_and_copies_does_not_matter(seed):
    check(Kernels(build(), seed), "many tiles", torch.float32, deterministic=False)
    check(Kernels(build(), seed), "N 17, R 9", torch.float32, deterministic=True)


SHAPE, OUT = (2, 150, 35, 2, 5, 9), (11, 130)
THREE = (3, 7, 65, 3, 2, 1), (1, 5)  # three adders everywhere: the sum of two is the same in any order


def faults(library) -> list[str]:
    """Return what the checks find in a build: wrong numbers, races, sums that depend on the blocks' order."""
    found = []
    for seed in (0, 7, 15):
        inputs, order, dy = problem(SHAPE, torch.float32, OUT)
        try:
            got = run(Kernels(library, seed), inputs, order, dy, OUT, deterministic=False)
        except EmulationError as error:
            found.append(str(error))
            continue
        errors = deviations(got, inputs, order, dy, OUT)
        found += [f"{name}: {error:.1e}" for name, error in errors.items() if not error < TOLERANCES[torch.float32]]
    if not found and not repeats(library, deterministic=True):
        found.append("the deterministic mode is none")
    return found


def repeats(library, deterministic: bool) -> bool:
    """Return whether blocks from the first to the last and from the last to the first have the same bits."""
    inputs, order, dy = problem(THREE[0], torch.float32, THREE[1])
    both = [run(Kernels(library, seed), inputs, order, dy, THREE[1], deterministic) for seed in (0, 1)]
    return all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_sound_kernels_have_no_faults():
    assert faults(build()) == []
    assert not repeats(build(), deterministic=False), "then repeats() could not tell the modes"


FORWARD, BACKWARD, COMMON = "scan_forward.cuh", "scan_backward.cuh", "scan_common.cuh"
MUTANTS = {
    "no barrier before y goes out": (
        FORWARD,
        "    __syncthreads();\n    const int c",
        "    const int c",
    ),
    "no barrier before x and dy are overwritten": (
        BACKWARD,
        "    }\n    __syncthreads();\n    if (i > 0) {",
        "    }\n    if (i > 0) {",
    ),
    "no barrier before the warps' parts are added up": (
        BACKWARD,
        "  __syncthreads();\n  for (int i = threadIdx.x; i < kParts",
        "  for (int i = threadIdx.x; i < kParts",
    ),
    "no barrier before the parts are written again": (
        BACKWARD,
        "    atomicAdd(address, sum);\n  }\n  __syncthreads();",
        "    atomicAdd(address, sum);\n  }",
    ),
    "no wait for the copies": (FORWARD, "    async_wait();\n", ""),
    "tokens overwritten while in use": (FORWARD, "Ring<int32_t>(c, 3, kTile)", "Ring<int32_t>(c, 2, kTile)"),
    "a wrong lane": (COMMON, "__shfl_up_sync(kAll, h, 1, kLanes)", "__shfl_up_sync(kAll, h, 2, kLanes)"),
    "a lane too few": (COMMON, "if (lane + d < kLanes)", "if (lane + d < kLanes - 1)"),
    "carry from the last lane but one": (FORWARD, "if (p.lane == kLanes - 1)", "if (p.lane == kLanes - 2)"),
    "the tail is one short": (COMMON, "min(kTile, steps - i * kTile)", "min(kTile, steps - i * kTile - 1)"),
    "the last token's index is not read": (COMMON, "i >= 0 && t < steps ?", "i >= 0 && t < steps - 1 ?"),
    "y without an atomic add": (
        FORWARD,
        "atomicAdd(out + ((int64_t)p.b * a.out_length + tokens[t] - a.out_start) * a.channels + e, x[t * kPitch + c]);",
        "out[((int64_t)p.b * a.out_length + tokens[t] - a.out_start) * a.channels + e] += x[t * kPitch + c];",
    ),
    "rows without an atomic add": (BACKWARD, "atomicAdd(address, sum);", "*address += sum;"),
    "the border of another tile": (BACKWARD, "tiles_of(a.length) + i) * N", "tiles_of(a.length) + i / 2) * N"),
    "the range's start forgotten": (FORWARD, "tokens[t] - a.out_start) * a.channels", "tokens[t]) * a.channels"),
    "halves exchanged the wrong way": (BACKWARD, "(upper ? second : first) +", "(upper ? first : second) +"),
    "one copy of the rows for all channel tiles": (BACKWARD, "out.row_copies > 1 ? p.tile : 0", "0"),
    "one copy of the parameters' gradients for the whole batch": (
        BACKWARD,
        "out.parameter_copies > 1 ? (int64_t)p.b * a.directions * a.channels : 0",
        "0",
    ),
    "states beyond N": (BACKWARD, "return n < N ?", "return n <= N ?"),
}


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_a_planted_fault_is_caught(mutant):
    assert faults(build(*MUTANTS[mutant]))
