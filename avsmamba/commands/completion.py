"""`avsmamba completion`."""

import argparse
import re
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
HELP = "print the completion script of a shell"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba completion`."""
    parser.description = (
        "Print the script by which a shell completes commands, options and file names; Python is not started for it. "
        'In ~/.bashrc: eval "$(avsmamba completion bash)". In ~/.zshrc, after compinit: '
        'eval "$(avsmamba completion zsh)". In config.fish: avsmamba completion fish | source.'
    )
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """Print the script for `args.parser`, the parser with all commands."""
    import shtab

    for action in args.parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for short in action._choices_actions:
                command = action.choices[short.dest]
                command.description = short.help
                _complete_paths(command, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(args.parser, args.shell))


def _complete_paths(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Set the completion of arguments whose metavar names a file or a folder."""
    for action in parser._actions:
        words = set(re.findall(r"\w+", str(action.metavar or "")))
        if words & {"FILE", "CONFIG", "CHECKPOINT", "VIDEO", "PAGE", "METRICS"}:
            action.complete = file  # type: ignore[attr-defined]
        elif "DIR" in words:
            action.complete = folder  # type: ignore[attr-defined]
