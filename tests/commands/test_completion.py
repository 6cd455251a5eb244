"""The scripts of `avsmamba completion`, and what bash makes of the one for it."""

import shutil
import subprocess

import pytest

from avsmamba.cli import COMMANDS, main
from avsmamba.commands.completion import SHELLS

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_avsmamba
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)


@pytest.fixture
def complete(tmp_path, capsys):
    """Return a function: completions of bash for the last of its arguments, in a folder with two files and a folder."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    main(["completion", "bash"])
    script = tmp_path / "script.bash"
    script.write_text(capsys.readouterr().out)
    place = tmp_path / "place"
    (place / "models").mkdir(parents=True)
    (place / "model.yaml").touch()
    (place / "model.pth").touch()

    def run(*words):
        command = ["bash", "--norc", "-c", COMPLETE, "-", str(script), "avsmamba", *words]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.split())

    return run


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["che"], {"check-data"}),
        (["test", "--r"], {"--robustness"}),
        (["test", "--audio", "s"], {"silence", "shuffle", "swap"}),
        (["make-shapes", "--subset", ""], {"s4", "ms3", "avss"}),
        (["train", "mod"], {"models", "model.yaml", "model.pth"}),
        (["train", "model.yaml", "--work-dir", "mod"], {"models"}),
        (["test", "model.yaml", "model.p"], {"model.pth"}),
        (["predict", "--size", ""], set()),
        (["completion", "f"], {"fish"}),
    ],
)
def test_bash_completes(complete, words, offered):
    assert complete(*words) == offered
