"""The console script `avsmamba`: one subcommand a module, imported when it is asked for."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# Before torch is loaded: its threads shall spin for microseconds at most while they wait. Where they share their cores
# with another program, long spinning makes a step many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# What each command is, and the module whose `add_arguments(parser)` and `run(args)` it is.
COMMANDS = {
    "predict": ("avsmamba.apis.predict", "segment what sounds in videos"),
    "sample": ("avsmamba.apis.sample", "write a sample clip to try it with"),
    "web": ("avsmamba.web", "open a web page to try videos on"),
    "models": (None, "list the models that are shipped"),
    "info": (None, "say what was built and what is missing"),
}


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options."""
    import avsmamba

    parser = argparse.ArgumentParser(prog="avsmamba", description="Audio-visual segmentation: segment what sounds.")
    parser.add_argument("--version", action="version", version=f"avsmamba {avsmamba.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words)
        if module and name in arguments[:1]:
            importlib.import_module(module).add_arguments(command)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; status 0, 2 for what the user can mend, 130 for Ctrl-C."""
    args = parse_args(sys.argv[1:] if arguments is None else arguments)
    from avsmamba.apis.command import run_tool

    run_tool(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Run the command that was parsed."""
    module = COMMANDS[args.command][0]
    if module:
        importlib.import_module(module).run(args)
    elif args.command == "models":
        print_models()
    else:
        from avsmamba.info import report

        print(report())


def print_models() -> None:
    """Name and description of each model that is shipped, and where it lies."""
    from avsmamba.shipped import shipped_models

    for model in shipped_models():
        print(f"{model.name}: {model.card.get('about', '')}\n  {model.config.parent}")


if __name__ == "__main__":
    main()
