"""Exit statuses and messages of `run_tool`."""

import pytest
import torch

from avsmamba.exit_status import run_tool
from avsmamba.models.batch import check_inputs
from avsmamba.utils import UserError


def fail(error):
    raise error


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda: fail(UserError("x.png: two\n  lines")), "error: x.png: two lines\n"),
        (
            lambda: fail(UserError("Caught in worker\nTraceback ...\navsmamba.utils.UserError: x.png: bad")),
            "error: x.png: bad\n",
        ),
        (lambda: check_inputs(torch.zeros(2), torch.zeros(2)), "error: frames: expected (B, T, 3, H, W), got (2,)\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line(function, message, capsys, monkeypatch):
    with pytest.raises(SystemExit) as left:
        run_tool(function)
    assert left.value.code == 2
    assert capsys.readouterr().err == message
    monkeypatch.setenv("AVSMAMBA_TRACEBACK", "1")
    with pytest.raises((UserError, ValueError)):
        run_tool(function)


def test_other_errors_keep_their_traceback(capsys):
    for error in (ValueError("of another library"), RuntimeError("a bug"), KeyError("a bug")):
        with pytest.raises(type(error)):
            run_tool(lambda error=error: fail(error))
    with pytest.raises(SystemExit) as left:
        run_tool(lambda: fail(KeyboardInterrupt()))
    assert left.value.code == 130
    assert [run_tool(lambda status=status: status) for status in (None, 0, 1)] == [0, 0, 1]
    assert capsys.readouterr().err == ""
