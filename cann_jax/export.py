"""``python -m cann_jax.export runs/NAME``: a finished run's model in a format of others, and on the Hub."""

import os
import sys
from collections.abc import Sequence

# Before JAX starts: its C++ side otherwise logs the machine it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cann_jax.command_line.commands import EXPORT
from cann_jax.command_line.errors import run_command
from cann_jax.command_line.parser import parse_flags


def main(argv: Sequence[str]) -> None:
    """Write the run's model in a format, unless it is there, and with ``--push`` upload it.

    Raises:
        InputError: The folder does not hold a finished run, its model cannot be written in the format, or the
            Hub does not take it.
    """
    flags = parse_flags(argv, EXPORT)
    # Imported here: a run brings the model libraries, seconds that --help need not wait for.
    from cann_jax.models.files.hub import check_name, upload
    from cann_jax.reporting.finished_run import finished_run
    from cann_jax.run.exports import export_again

    if flags.push is not None:
        check_name(flags.push)
    folder = export_again(finished_run(flags.run), flags.format)
    print(f"{flags.format}: {folder}")
    if flags.push is not None:
        print(f"pushed: {upload(folder, flags.push, private=not flags.public)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
