"""The house: tests mirror the package, no file is long, no folder holds more than its part."""

import ast
import sys
from collections import Counter

import pytest

from tests import ROOT

PACKAGE, TESTS = ROOT / "avsmamba", ROOT / "tests"
NOT_OF_THE_PACKAGE = {"benchmarks", "cuda_emulation"}
# The operator's tests also run beside a wheel, in an environment without the other packages (tests/test_wheel.py).
FOR_THE_OPERATOR = {"torch", "numpy", "pytest", "hypothesis", "scipy", "packaging", "avsmamba", "tests"}


def length(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_folder_of_tests_is_one_of_the_package():
    folders = {p.parent.relative_to(TESTS) for p in TESTS.rglob("test_*.py")}
    assert not [f for f in folders if f.parts and f.parts[0] not in NOT_OF_THE_PACKAGE and not (PACKAGE / f).is_dir()]


def test_no_file_is_long():
    sources = [p for folder in (PACKAGE, TESTS, ROOT / "tools", ROOT / "benchmarks") for p in folder.rglob("*.py")]
    sources += [p for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    assert {str(p): length(p) for p in sources if length(p) > 400} == {}


def test_no_folder_holds_more_than_a_seventh_of_the_package():
    lines = Counter()
    for path in PACKAGE.rglob("*.py"):
        lines[path.parent] += length(path)
    assert max(lines.values()) <= 0.14 * sum(lines.values()), lines.most_common(2)


@pytest.mark.parametrize("path", sorted((TESTS / "ops").glob("*.py")), ids=lambda path: path.name)
def test_the_operator_s_tests_import_little(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top, _, rest = name.partition(".")
            own = top == "avsmamba" and rest and rest.split(".")[0] not in ("ops", "info", "utils", "version")
            known = top in FOR_THE_OPERATOR or top in sys.stdlib_module_names
            assert known and not own, name
