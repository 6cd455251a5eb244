"""The front door: every command and every script of tools/, without what makes `--help` slow."""

import json
import os
import subprocess
import sys

import pytest

from avsmamba.cli import COMMANDS, main, parse_args
from avsmamba.model_zoo.bundled import shipped_models
from tests import ROOT

TOOLS = {path.name: path for path in sorted((ROOT / "tools").glob("*.py"))}
# Prints as JSON: what each call printed, and which modules outside the standard library are loaded at the end.
HELP = """
import json, runpy, sys
before = set(sys.modules)
import contextlib, io

printed = {}
for name, *words in json.loads(sys.argv[1]):
    sys.argv = [*words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        if words[0].endswith(".py"):
            runpy.run_path(words[0], run_name="__main__")
        else:
            from avsmamba.cli import main

            main()
    printed[name] = out.getvalue()
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([printed, sorted(roots - set(sys.stdlib_module_names))]))
"""


@pytest.fixture(scope="module")
def helps():
    calls = [["", "avsmamba"], *([name, "avsmamba", name] for name in COMMANDS)]
    calls += [[name, str(path)] for name, path in TOOLS.items()]
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(calls)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(done.stdout)


def test_help_loads_nothing_but_the_standard_library(helps):
    printed, loaded = helps
    assert loaded == ["avsmamba"]
    assert all(text.startswith("usage: ") for text in printed.values())


def test_the_list_of_commands(helps):
    lines = helps[0][""].splitlines()
    for name, module in COMMANDS.items():
        assert lines.count(f"  {name:<13}{module.HELP}") == 1
    modules = {path.stem.strip("_").replace("_", "-") for path in (ROOT / "avsmamba/commands").glob("*.py")}
    assert modules - {"init", "shared"} == set(COMMANDS)
    assert all(len(line) < 80 for line in lines)


def test_every_command_has_its_own_help(helps):
    printed, _ = helps
    for name in COMMANDS:
        assert printed[name].startswith(f"usage: avsmamba {name} [-h]"), name


def test_a_script_is_a_command_under_its_own_name(helps):
    printed, _ = helps
    commands = {text.partition("\n\n")[2]: name for name, text in printed.items() if name in COMMANDS}
    assert len(commands) == len(COMMANDS)
    for name, path in TOOLS.items():
        assert printed[name].startswith(f"usage: {name} [-h]")
        command = commands[printed[name].partition("\n\n")[2]]
        assert f'"""The same as `avsmamba {command}`."""' in path.read_text()
    assert {commands[printed[name].partition("\n\n")[2]] for name in TOOLS} == set(COMMANDS) - {
        "completion",
        "import",
        "info",
        "models",
        "sample",
        "shards",
        "web",
    }


@pytest.mark.parametrize("words", [[], ["trian"], ["train"], ["test", "a", "b", "--audio", "loud"]])
def test_wrong_words_are_status_2_and_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("usage: avsmamba ") and "avsmamba" in err.splitlines()[-1]


def test_defaults_and_repeated_options():
    args = parse_args(["train", "x.yaml", "--cfg-options", "a=1", "b=2", "--resume", "--cfg-options", "c=3"])
    assert (args.config, args.cfg_options, args.resume) == ("x.yaml", ["a=1", "b=2", "c=3"], "auto")
    assert parse_args(["train", "x.yaml", "--local_rank", "3"]).local_rank == 3
    args = parse_args(["sample"])
    assert (args.out, args.seed) == (".", 0)


def test_models_are_listed_without_torch():
    code = "import sys; from avsmamba.cli import main; main(['models']); print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "set()"
    assert [line.partition(":")[0] for line in lines[::2]] == [model.name for model in shipped_models()]


def test_info(capsys):
    assert main(["info"]) == 0
    assert "backends of the scan" in capsys.readouterr().out


def test_without_the_source_tree(monkeypatch, capsys, tmp_path):
    from avsmamba.commands import shared

    monkeypatch.setattr(shared, "__file__", str(tmp_path / "site-packages/avsmamba/commands/shared.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["zoo"])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("error: configs/: no such folder;") and err.count("\n") == 1
    (tmp_path / "configs").mkdir()
    assert shared.source_tree() == tmp_path


@pytest.mark.parametrize(("given", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_spin_briefly_unless_the_user_says_otherwise(given, expected):
    code = (
        "import os, sys\nfrom avsmamba import cli\nfrom avsmamba.commands import models\n"
        "models.run = lambda args: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)\ncli.main(['models'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | given
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout.split() == [expected, "False"]
