"""No kernel runs 5 % more instructions than `benchmarks/instructions.json` says."""

import warnings

import pytest

from benchmarks import instructions


@pytest.fixture(scope="module")
def record():
    """The recorded counts of this compiler."""
    if (lacking := instructions.missing()) is not None:
        pytest.skip(f"instructions are counted with g++ and valgrind on a CPU with AVX2: {lacking}")
    version, records = instructions.compiler_version(), instructions.recorded()
    if version not in records:
        pytest.skip(f"counts are recorded for {', '.join(records)}; here is {version}, whose code is another")
    assert records[version]["flags"] == instructions.FLAGS, "recorded with other flags: record again"
    return records[version]["instructions"]


@pytest.mark.timeout(900)
def test_no_kernel_runs_more_instructions_than_recorded(record):
    assert list(record) == list(instructions.CASES), "the record is of other problems: record again"
    program = instructions.build()
    verdicts = [
        instructions.verdict(name, instructions.count(program, *case), record[name])
        for name, case in instructions.CASES.items()
    ]
    for fits, words in verdicts:
        if fits and "--record" in words:
            warnings.warn(words, stacklevel=1)
    assert not [words for fits, words in verdicts if not fits]


@pytest.mark.parametrize(("counted", "fits", "to_record"), [(106, False, True), (104, True, False), (90, True, True)])
def test_the_limit_is_five_percent_more(counted, fits, to_record):
    got, words = instructions.verdict("scan", counted * 1000, 100_000)
    assert got is fits
    assert ("--record" in words) is to_record


def test_a_driver_that_fails_is_no_count(record):
    sizes = (1, 3, 5, 1, 2, 1, 0, 3)
    with pytest.raises(RuntimeError, match="a wrong number of sizes"):
        instructions.count(instructions.build(), "conv_forward", sizes)
