"""``python -m cann_jax.dual --scores TABLE --margin NAME=VALUE``: from a score table to the multipliers."""

import sys
from collections.abc import Sequence

from cann_jax.analysis.flags import DualFlags
from cann_jax.command_line.commands import DUAL
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_flags
from cann_jax.files.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Solve the problem that the flags state, or write the example table.

    Raises:
        InputError: Bad flags or a bad table.
        InfeasibleError: The margins are out of reach; raised after everything is printed and written.
        NotConvergedError: λ* was not found to tolerance; raised likewise.
    """
    flags = parse_flags(argv, DUAL)
    if flags.example is not None:
        if flags != DualFlags(example=flags.example):
            raise InputError("command line: --example takes no other flag; leave the others out")
        from cann_jax.analysis.example import write_example

        return write_example(flags.example)
    if flags.scores is None:
        raise InputError("command line: --scores is missing; give a score table, or --example FILE for one")
    _solve(flags.scores, flags)


def _solve(path: str, flags: DualFlags) -> None:
    # Imported here: JAX takes half a second, which --help and a mistyped flag need not wait for.
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.options import check_options

    check_options(may_differ=["jax_enable_x64"])
    keep_compilations()
    from cann_jax.analysis.constraints import as_levels

    flags = as_levels(flags)
    if flags.stream:
        from cann_jax.analysis.stream import solve_streamed_table

        return solve_streamed_table(path, flags)
    from cann_jax.analysis.solve_table import solve_table

    solve_table(path, flags)


if __name__ == "__main__":
    sys.exit(run_command(main))
