"""``python -m cann_jax COMMAND``, installed as ``cann-jax COMMAND``: list the commands, or run one."""

import importlib
import sys
from collections.abc import Sequence

import cann_jax
from cann_jax.command_line.commands import COMMANDS
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.help import command_list
from cann_jax.files.errors import InputError, hint


def main() -> int:
    """Run the command that the process's arguments name and return the exit status."""
    return run_command(_run)


def _run(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        return print(command_list())
    if argv[0] == "--version":
        return print(f"cann-jax {cann_jax.__version__}")
    name, *rest = argv
    if name not in COMMANDS:
        raise InputError(f"{name!r} is not a command; {hint(name, COMMANDS, 'commands')}")
    importlib.import_module(COMMANDS[name].module).main(rest)


if __name__ == "__main__":
    sys.exit(main())
