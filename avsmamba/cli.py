"""The console script `avsmamba`: a command for each module of `avsmamba.commands`.

torch is imported when a command runs, not before, so that `--help` takes less than half a second.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from avsmamba.commands import (
    ablate,
    check_data,
    compare,
    completion,
    complexity,
    components,
    export,
    features,
    import_,
    info,
    inspect,
    make_shapes,
    models,
    predict,
    publish,
    qualitative,
    report,
    sample,
    shards,
    test,
    train,
    web,
    zoo,
)
from avsmamba.exit_status import run_tool
from avsmamba.version import __version__

GROUPS = {
    "commands": (
        train,
        test,
        predict,
        web,
        export,
        import_,
        check_data,
        shards,
        inspect,
        zoo,
        models,
        publish,
        sample,
        make_shapes,
        info,
        completion,
    ),
    "experiments and figures of the paper": (ablate, compare, qualitative, features, complexity),
    "for maintainers, in a clone of the repository": (components, report),
}
COMMANDS = {
    module.__name__.rpartition(".")[2].strip("_").replace("_", "-"): module
    for group in GROUPS.values()
    for module in group
}


class GroupedParser(argparse.ArgumentParser):
    """Parser of `avsmamba` with the commands in groups, which argparse's own help does not have."""

    def format_help(self) -> str:
        """Return the list of commands."""
        lines = [f"usage: {self.usage}", "", self.description or ""]
        for title, group in GROUPS.items():
            lines += ["", f"{title}:"]
            lines += [f"  {name:<13}{module.HELP}" for name, module in COMMANDS.items() if module in group]
        return "\n".join([*lines, "", "avsmamba COMMAND --help explains a command; avsmamba --version", ""])


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `avsmamba` with all commands."""
    parser = GroupedParser(
        prog="avsmamba",
        usage="avsmamba COMMAND [OPTION ...]",
        description="Audio-visual segmentation: outline the objects in a video that make its sound.",
    )
    parser.add_argument("--version", action="version", version=f"avsmamba {__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", prog="avsmamba", parser_class=argparse.ArgumentParser
    )
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP)
        command.set_defaults(run=module.run, parser=parser)
        module.add_arguments(command)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `arguments` (default: `sys.argv`); `run` of the result is the command's function."""
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its status; see `run_tool` for the errors."""
    return _execute(parse_args(arguments))


def run_alias(module: ModuleType) -> int:
    """Run a command from a script of `tools/`; the usage line names the script."""
    parser = argparse.ArgumentParser()
    parser.set_defaults(run=module.run)
    module.add_arguments(parser)
    return _execute(parser.parse_args())


def _execute(args: argparse.Namespace) -> int:
    # Must be set before torch is loaded. By default, waiting OpenMP threads spin for long, which makes a step many
    # times slower on cores that are shared with data workers or other programs.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return run_tool(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
