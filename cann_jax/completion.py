"""``cann-jax completion SHELL``: a script by which the shell completes the command line."""

import sys
from collections.abc import Sequence

from cann_jax.command_line.commands import COMPLETION
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_flags


def main(argv: Sequence[str]) -> None:
    """Print the script.

    Raises:
        InputError: Bad flags, or a shell that the installed shtab, which writes it, does not know.
    """
    flags = parse_flags(argv, COMPLETION)
    from cann_jax.command_line.completion import completion_script

    print(completion_script(flags.shell))


if __name__ == "__main__":
    sys.exit(run_command(main))
