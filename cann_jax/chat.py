"""``python -m cann_jax.chat runs/NAME``: the reference and the aligned model answer prompts, side by side."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.commands import CHAT
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_flags


def main(argv: Sequence[str]) -> None:
    """Answer ``--prompt``, or each line of a pipe, or what a person types.

    Raises:
        InputError: The folder does not hold a run whose model has been trained, or a prompt cannot be used.
    """
    flags = parse_flags(argv, CHAT)
    # Imported here: a run brings the model libraries, seconds that --help need not wait for.
    from cann_jax.reporting.chat import Policies, aligned_run, answer_lines, answer_one, converse
    from cann_jax.runtime.compilation import keep_compilations
    from cann_jax.runtime.mesh import alone
    from cann_jax.runtime.options import check_options

    check_options()
    keep_compilations()
    with alone():
        run = aligned_run(flags.run)
        policies, seed = Policies(run), run.config.seed if flags.seed is None else flags.seed
        if flags.prompt is not None:
            answer_one(policies, flags.prompt, seed)
        elif sys.stdin.isatty():
            converse(policies, seed)
        else:
            answer_lines(policies, sys.stdin.buffer, seed)


if __name__ == "__main__":
    sys.exit(run_command(main))
