"""Errors in one line."""

import pytest

from avsmamba.utils import UserError, one_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("x.yaml: two\n  lines"), "x.yaml: two lines"),
        (UserWarning("two\nlines"), "two lines"),
        (UserError("Caught in worker\nTraceback ...\navsmamba.utils.UserError: x.png: bad"), "x.png: bad"),
        (UserError("config: UserError: of another library"), "config: UserError: of another library"),
        (RuntimeError("\n first  line\nadvice"), "first line"),
        (KeyError(), "KeyError"),
        (ValueError("y" * 400), "y" * 300),
    ],
)
def test_one_line(error, expected):
    assert one_line(error) == expected


def test_a_preferred_line():
    assert one_line(RuntimeError("advice\nUnsupported GLOBAL os.system"), "GLOBAL") == "Unsupported GLOBAL os.system"
    assert one_line(RuntimeError("advice\nmore"), "GLOBAL") == "advice"
